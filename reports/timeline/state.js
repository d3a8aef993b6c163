// What is shown of the run, and where each row lies. The only state of the page.

const ROW_HEIGHTS = [1, 2, 3, 5, 8, 12, 16, 22, 28, 36, 48];
const HEIGHT_MAX = 12e6; // browsers cut elements that are higher than some 17 million pixels
const GAP_MS = 20; // a wait that long gets a break of its own between two rows
const state = {
  unit: "", probes: false, quiet: false, scale: "order", level: 7, factor: 1,
  selected: -1, words: "", hits: [], table: false, page: 0,
};

let shown = new Int32Array(0); // rows by position
let place = new Int32Array(ROWS); // position by row, -1 where it is hidden; then `nearest` says where it would be
let nearest = new Int32Array(ROWS);
let tops = new Float64Array(0); // the middle of each position, in pixels
let gaps = []; // [pixel, milliseconds] of each long wait
let total = 0;

function isShown(row) {
  const flags = rowFlags(row);
  if (evidence.has(row)) return !state.unit || unitFits(rowUnit(row));
  if (flags & PROBE && !state.probes) return false;
  if (flags & QUIET && !state.quiet) return false;
  return !state.unit || unitFits(rowUnit(row));
}
function unitFits(unit) { return unit === "" || unit === state.unit; }

function filterRows() {
  const found = [];
  for (let row = 0; row < ROWS; row++) {
    nearest[row] = Math.max(found.length - 1, 0);
    place[row] = -1;
    if (isShown(row)) {
      place[row] = nearest[row] = found.length;
      found.push(row);
    }
  }
  shown = Int32Array.from(found);
  layOut();
}

function rowHeight() { return ROW_HEIGHTS[state.level]; }

// Order: one height a row, and a break where long nothing happened. Time: pixels for milliseconds.
function layOut() {
  tops = new Float64Array(shown.length);
  gaps = [];
  if (state.scale === "time") layOutByTime();
  else layOutByOrder();
}

function layOutByOrder() {
  const height = rowHeight();
  let y = height / 2 + 4;
  for (let at = 0; at < shown.length; at++) {
    const wait = at ? rowMs[shown[at]] - rowMs[shown[at - 1]] : 0;
    if (wait >= GAP_MS) {
      const room = Math.max(height, 4);
      gaps.push([y - height / 2 + room / 2, wait]);
      y += room;
    }
    tops[at] = y;
    y += height;
  }
  total = Math.ceil(y - height / 2 + 6);
}

function layOutByTime() {
  const start = shown.length ? rowMs[shown[0]] : 0;
  const length = shown.length ? Math.max(rowMs[shown[shown.length - 1]] - start, 0.001) : 1;
  const pixels = Math.min(fitHeight() * state.factor, HEIGHT_MAX);
  for (let at = 0; at < shown.length; at++) tops[at] = 12 + ((rowMs[shown[at]] - start) / length) * pixels;
  total = Math.ceil(pixels + 36);
}

function fitHeight() { return Math.max(innerHeight - 190, 300); }

// The position at or after a pixel.
function positionAt(y) {
  let low = 0;
  let high = shown.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (tops[middle] < y) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearestTo(y) {
  const after = Math.min(positionAt(y), shown.length - 1);
  const before = Math.max(after - 1, 0);
  return y - tops[before] < tops[after] - y ? before : after;
}

// Where a row is, or would be if it were not hidden.
function topOf(row) { return shown.length ? tops[Math.min(nearest[row], shown.length - 1)] : 0; }

function search(words) {
  state.words = words.trim().toLowerCase();
  state.hits = [];
  if (!state.words) return;
  for (const row of shown) {
    if (rowText(row).toLowerCase().includes(state.words)) state.hits.push(row);
  }
}
