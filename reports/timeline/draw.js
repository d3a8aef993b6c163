// Draws a stretch of the timeline: lanes, bars, arrows and marks as SVG, texts as elements of their own, so that they can be
// chosen and copied. The same function serves the screen (what is visible) and the printer (a page at a time).

const NARROW = 760;
const NODES_MAX = 6000;
const ROOM = 15; // pixels that a line of text needs
let lanes = []; // {kind, name, x (middle), left, width}
let gutter = 0;
let textLeft = 0;
let narrow = false;

function placeLanes(width) {
  narrow = width < NARROW;
  const wide = { driver: 128, relay: 118, systemd: 172, kernel: 22 };
  const tight = { driver: 46, relay: 34, systemd: 46, kernel: 12 };
  const widths = narrow ? tight : wide;
  gutter = narrow ? 62 : 124;
  const wanted = D.lanes.reduce((sum, [kind]) => sum + widths[kind], 0);
  const factor = Math.min(1, Math.max((width * (narrow ? 0.5 : 0.6) - gutter) / wanted, 0.3));
  let left = gutter;
  lanes = D.lanes.map(([kind, name]) => {
    const half = (widths[kind] * factor) / 2;
    const lane = { kind, name, left, width: 2 * half, x: left + (narrow || kind === "kernel" ? half : Math.min(half, 22)) };
    left += lane.width;
    return lane;
  });
  textLeft = left + 8;
}

function relayX() { return lanes.find((lane) => lane.kind === "relay").x; }

// The head of the lanes: names, the kernel's turned on their side.
function drawLaneNames(width) {
  const height = narrow || lanes.some((lane) => lane.kind === "kernel") ? 92 : 34;
  const svg = s("svg", { width, height, class: "names" });
  const kernel = lanes.filter((lane) => lane.kind === "kernel");
  for (const lane of lanes) {
    if (lane.kind === "kernel" || narrow) {
      const name = label(0, 0, cut(lane.name, 14), `name ${lane.kind}`);
      name.setAttribute("transform", `translate(${lane.x + 4} ${height - 4}) rotate(-90)`);
      name.setAttribute("font-size", Math.min(lane.width + 1, 11));
      svg.append(name);
    } else {
      svg.append(label(lane.x - 6, height - 6, cut(lane.name, lane.kind === "systemd" ? 22 : 14), `name ${lane.kind}`));
    }
  }
  if (kernel.length && !narrow) {
    svg.append(label(kernel[0].left - 6, 12, "kernel", "over", "end"), label(textLeft, height - 6, "what happened", "over"));
  }
  svg.append(label(gutter - 8, height - 6, "ms", "over", "end"));
  return svg;
}

function barX(bar) { return lanes[bar.lane].x - 5 + bar.track * Math.min(11, lanes[bar.lane].width / 5); }

function barShown(bar) {
  if (state.unit && bar.unit && bar.unit !== state.unit) return false;
  return state.probes || !(rowFlags(bar.from) & PROBE);
}

// y of a bar's end: in the middle of its row; of a row that is hidden, where that would be.
function barPart(svg, x, y1, y2, kind) {
  svg.append(s("rect", { x, y: y1, width: 10, height: Math.max(y2 - y1, 2), class: kind, rx: 2 }));
}

function drawBar(svg, bar, y1, y2) {
  const x = barX(bar);
  const over = bar.end.startsWith("never") || bar.end.startsWith("not over");
  const group = s("g", { class: `bar ${bar.kind}${over ? " open" : ""}`, "data-row": bar.from });
  group.append(s("title", {}, `${bar.note}\n${bar.end}`));
  if (bar.kind === "job") drawJob(group, bar, x, y1, y2);
  else barPart(group, x, y1, over ? Math.max(y2, y1 + 12) : y2, "body");
  if (over) {
    const end = Math.max(y2, y1 + 12);
    group.append(path(`M${x - 2} ${end}l3 5l4 -10l4 10l3 -5`, "torn"));
  }
  svg.append(group);
}

// A job's states: queued is hollow, blocked is hatched, running is full.
function drawJob(group, bar, x, y1, y2) {
  bar.parts.forEach(([word, event], number) => {
    if (word === "ended") return;
    const from = topOf(rowOf[event]);
    const next = bar.parts[number + 1];
    barPart(group, x, from, next ? topOf(rowOf[next[1]]) : y2, `state ${word}`);
  });
  if (bar.end.startsWith("ended")) group.append(line(x - 2, y2, x + 12, y2, "cap"));
}

// Beside its bar, at its beginning; of a bar that began above, at the top of what is visible.
function drawBarLabel(svg, bar, top, bottom, taken) {
  if (bar.kind === "behind" || narrow) return;
  const lane = lanes[bar.lane];
  const [y1, y2] = [topOf(bar.from), topOf(bar.to)];
  const x = barX(bar) + 14;
  const room = Math.floor((lane.left + lane.width - x) / 5.6);
  if (y2 - y1 < 14 || room < 4) return;
  const text = cut(bar.label, room);
  let y = Math.max(y1 + (bar.kind === "wait" || bar.kind === "hold" ? 16 : 4), top + 14);
  const key = (at) => `${bar.lane} ${Math.round(at / 12)}`;
  while (taken.has(key(y)) && y < y2) y += 12;
  if (y > y2 + 4 || y > bottom) return;
  taken.add(key(y));
  svg.append(label(x, y, text, `bar-label ${bar.kind}`));
}

function drawGap(svg, y, ms, width) {
  svg.append(line(gutter, y, width, y, "gap"), label(gutter - 8, y + 3.5, `${showSpan(ms)} later`, "gap-label", "end"));
}

// Rows at positions first..last-1 between pixels top and bottom, as {svg, texts}. Whatever lies on the same pixel is drawn once.
function drawStretch(first, last, top, bottom, width) {
  const height = bottom - top;
  const dense = state.scale === "order" && rowHeight() < 12;
  const svg = s("svg", { width, height, viewBox: `0 ${top} ${width} ${height}`, class: "lanes" });
  for (const lane of lanes) svg.append(line(lane.x, top, lane.x, bottom, `lane ${lane.kind}`));
  if (rowHeight() >= 5 || state.scale === "time") {
    for (const [y, ms] of gaps) if (y >= top && y <= bottom) drawGap(svg, y, ms, width);
  }
  const visible = bars.filter((bar) => topOf(bar.from) <= bottom && topOf(bar.to) >= top && barShown(bar));
  const small = new Set();
  for (const bar of visible) {
    const [y1, y2] = [topOf(bar.from), topOf(bar.to)];
    const key = `${bar.lane} ${bar.track} ${Math.round(y1 / 3)}`;
    if (y2 - y1 < 3 && small.has(key)) continue;
    if (y2 - y1 < 3) small.add(key);
    drawBar(svg, bar, y1, y2);
  }
  const marks = s("g", { class: dense ? "marks dense" : "marks" });
  const drawn = new Set();
  let nodes = 0;
  for (let at = first; at < last && nodes < NODES_MAX; at++) {
    const row = shown[at];
    const key = `${Math.round(tops[at] / 3)} ${D.rows[row][4]}`;
    if (drawn.has(key) && !evidence.has(row)) continue;
    drawn.add(key);
    nodes += drawRow(marks, row, tops[at], dense);
  }
  svg.append(marks);
  const taken = new Set();
  if (!dense) for (const bar of visible) drawBarLabel(svg, bar, top, bottom, taken);
  return { svg, texts: drawTexts(first, last, top) };
}

function drawRow(group, row, y, dense) {
  const draw = rowDraw(row);
  const parts = [];
  if (draw[0] === "a") {
    parts.push(...arrow(lanes[draw[1]].x, lanes[draw[2]].x, y, draw[3], draw[4], relayX(), !dense));
  } else {
    for (let at = 1; at < draw.length; at += 3) {
      parts.push(...mark(lanes[draw[at]].x, y, draw[at + 1], draw[at + 2], dense ? 8 : 22, lanes[draw[at]].width));
    }
  }
  group.append(...parts);
  return parts.length;
}

// Texts where there is room for them; evidence and the chosen row come first.
function drawTexts(first, last, top) {
  const texts = h("div", { class: "texts" });
  const roomy = state.scale === "order" && rowHeight() >= ROOM;
  const wanted = [];
  for (let at = first; at < last; at++) {
    if (!roomy && (evidence.has(shown[at]) || shown[at] === state.selected) && free(wanted, tops[at])) wanted.push(at);
  }
  const certain = wanted.map((at) => tops[at]);
  let next = 0;
  let before = -Infinity;
  for (let at = first; at < last; at++) {
    const y = tops[at];
    while (next < certain.length && certain[next] < y) before = Math.max(before, certain[next++]);
    const fits = y - before >= ROOM && (next === certain.length || certain[next] - y >= ROOM);
    if (!roomy && !fits) continue;
    wanted.push(at);
    before = y;
  }
  for (const at of wanted) texts.append(drawText(shown[at], tops[at] - top));
  return texts;
}
function free(wanted, y) { return !wanted.length || y - tops[wanted[wanted.length - 1]] >= ROOM; }

function drawText(row, y) {
  const shows = evidence.has(row);
  const hit = state.words && rowText(row).toLowerCase().includes(state.words);
  const kinds = ["row", shows && "shows", hit && "hit", row === state.selected && "chosen",
    narrow && state.scale === "order" && rowHeight() >= 32 && "two"].filter(Boolean);
  const text = h("span", { class: "what" }, rowText(row));
  text.style.left = `${textLeft}px`;
  const when = h("span", { class: "when" }, narrow ? "" : h("span", { class: "index" }, `#${rowEvents(row)[0]}`),
    h("span", { class: "ms" }, showMs(rowMs[row])));
  when.style.width = `${gutter - 8}px`;
  const element = h("div", { class: kinds.join(" "), "data-row": row, title: rowText(row) }, when, text);
  element.style.top = `${y}px`;
  return element;
}
