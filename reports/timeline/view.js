// What of the timeline is on the screen, and what is chosen. The page scrolls as a whole; only what is visible exists.

const MARGIN = 240;
let asked = false;

function paint() {
  asked = false;
  if (state.table || !lanes.length) return;
  const timeline = byId("timeline");
  const box = timeline.getBoundingClientRect();
  const top = Math.max(0, -box.top - MARGIN);
  const bottom = Math.min(total, innerHeight - box.top + MARGIN);
  timeline.replaceChildren();
  if (bottom <= top || !shown.length) {
    if (!shown.length) timeline.append(h("p", { class: "nothing" }, "Nothing fits this filter."));
    paintMap(box);
    return;
  }
  const last = Math.min(positionAt(bottom) + 1, shown.length);
  const { svg, texts } = drawStretch(Math.max(positionAt(top) - 1, 0), last, top, bottom, box.width);
  const stretch = h("div", { class: "stretch" }, texts, svg);
  stretch.style.top = `${top}px`;
  stretch.style.height = `${bottom - top}px`;
  timeline.append(stretch);
  paintMap(box);
}

function repaint() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(paint);
}

// Everything anew, after the filter, the scale or the window changed. `keep` is a row that stays where it is.
function arrange(keep) {
  const timeline = byId("timeline");
  const row = keep ?? middleRow();
  const before = row >= 0 ? timeline.getBoundingClientRect().top + topOf(row) : 0;
  filterRows();
  search(state.words);
  const width = byId("diagram").clientWidth;
  document.documentElement.style.setProperty("--bar", `${byId("toolbar").offsetHeight}px`);
  placeLanes(width);
  byId("lanes").replaceChildren(drawLaneNames(width));
  timeline.style.height = `${total}px`;
  if (row >= 0 && scrollY > 0) scrollBy(0, timeline.getBoundingClientRect().top + topOf(row) - before);
  paint();
  showCounts();
  if (state.table) showTable();
}

function middleRow() {
  const box = byId("timeline").getBoundingClientRect();
  if (!shown.length || box.top > innerHeight * 0.6) return -1;
  return shown[nearestTo(innerHeight / 2 - box.top)];
}

// The run at a glance along the window's edge: steps, holds, evidence, hits, and where we are.
function paintMap(box) {
  const map = byId("map");
  const height = innerHeight;
  if (!total || total < height * 1.5 || box.bottom < 0 || box.top > height) {
    map.hidden = true;
    return;
  }
  map.hidden = false;
  const scale = height / total;
  const svg = s("svg", { width: 18, height });
  svg.append(s("rect", { x: 0, y: -box.top * scale, width: 18, height: Math.max(height * scale, 6), class: "here" }));
  let count = 0;
  for (const bar of bars) {
    if ((bar.kind !== "step" && bar.kind !== "hold") || !barShown(bar) || ++count > 400) continue;
    const y = topOf(bar.from) * scale;
    const size = Math.max(topOf(bar.to) * scale - y, 1);
    svg.append(s("rect", { x: bar.kind === "step" ? 2 : 8, y, width: 4, height: size, class: `bar ${bar.kind}` }));
  }
  for (const row of state.hits.slice(0, 400)) svg.append(line(12, topOf(row) * scale, 18, topOf(row) * scale, "hit"));
  for (const row of evidenceRows.slice(0, 400)) {
    const y = topOf(row) * scale;
    svg.append(path(`M18 ${y - 4}L10 ${y}L18 ${y + 4}Z`, "shows"));
  }
  map.replaceChildren(svg);
}

function choose(row, options = {}) {
  state.selected = row;
  if (place[row] < 0) reveal(row);
  if (options.scroll !== false) scrollToRow(row, options.center);
  showDetails(row);
  const shows = evidence.has(row) ? ", evidence" : "";
  byId("said").textContent = `event ${rowEvents(row)[0]}, ${showMs(rowMs[row])} ms: ${rowText(row)}${shows}`;
  paint();
}

// A row that a filter hides is wanted: loosen the filter.
function reveal(row) {
  const flags = rowFlags(row);
  if (flags & PROBE) state.probes = true;
  if (flags & QUIET) state.quiet = true;
  if (state.unit && !unitFits(rowUnit(row))) state.unit = "";
  showControls();
  arrange(-1);
}

function scrollToRow(row, center) {
  const box = byId("timeline").getBoundingClientRect();
  const y = box.top + topOf(row);
  const high = byId("toolbar").offsetHeight + byId("lanes").offsetHeight + 30;
  const low = innerHeight - (byId("details").hidden || innerWidth >= 1200 ? 40 : innerHeight * 0.42);
  if (center || y < high || y > low) scrollBy(0, y - (high + low) / 2);
}

function step(by) {
  if (!shown.length) return;
  const now = state.selected >= 0 ? nearest[state.selected] : positionAt(-byId("timeline").getBoundingClientRect().top + 200);
  const next = Math.min(Math.max(now + (state.selected >= 0 ? by : 0), 0), shown.length - 1);
  choose(shown[next]);
}

function stepAmong(rows, by) {
  if (!rows.length) return;
  const now = state.selected;
  const next = by > 0 ? rows.find((row) => row > now) ?? rows[0]
    : [...rows].reverse().find((row) => row < now) ?? rows[rows.length - 1];
  choose(next, { center: true });
}

function zoom(by) {
  if (state.scale === "time") state.factor = Math.min(Math.max(state.factor * 1.6 ** by, 1), 1e5);
  else state.level = Math.min(Math.max(state.level + by, 0), ROW_HEIGHTS.length - 1);
  arrange(state.selected >= 0 && visible(state.selected) ? state.selected : undefined);
}
function visible(row) {
  const y = byId("timeline").getBoundingClientRect().top + topOf(row);
  return y > 0 && y < innerHeight;
}
function zoomToFit() {
  if (state.scale === "time") state.factor = 1;
  else {
    const fits = ROW_HEIGHTS.filter((height) => height * shown.length <= fitHeight());
    state.level = Math.max(fits.length - 1, 0);
  }
  arrange();
}
