// The wait graph: who waits for whom, victims on the left, the cause on the right, and what nobody will ever do at the end.

const BOX = { width: 214, height: 66, gap: 116, row: 84 };

function depths(nodes) {
  const byNumber = new Map(nodes.map((node) => [node.id, node]));
  const depth = new Map();
  const of = (node, path) => {
    if (depth.has(node.id)) return depth.get(node.id);
    if (path.has(node.id)) return 0; // a circle: each waits for the other
    path.add(node.id);
    const below = node.heldBy.map((id) => byNumber.get(id)).filter(Boolean).map((other) => of(other, path) + 1);
    path.delete(node.id);
    depth.set(node.id, Math.max(0, ...below));
    return depth.get(node.id);
  };
  nodes.forEach((node) => of(node, new Set()));
  return depth;
}

function drawGraph(graph) {
  const depth = depths(graph.nodes);
  const deepest = Math.max(0, ...depth.values());
  const columns = new Map();
  const at = new Map();
  for (const node of graph.nodes) {
    const column = deepest - depth.get(node.id);
    const row = columns.get(column) || 0;
    columns.set(column, row + 1);
    at.set(node.id, { x: 6 + column * (BOX.width + BOX.gap), y: 8 + row * BOX.row });
  }
  const ends = graph.nodes.some((node) => !node.lock);
  const width = 12 + (deepest + 1) * BOX.width + deepest * BOX.gap + (ends ? 250 : 0);
  const height = 8 + Math.max(...columns.values()) * BOX.row;
  const said = graph.nodes.map((node) => `goroutine ${node.id} in ${node.function} ${node.what}`).join("; ");
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Wait graph: ${said}` });
  for (const node of graph.nodes) drawEdges(svg, node, at);
  for (const node of graph.nodes) drawNode(svg, node, at.get(node.id));
  const more = graph.more ? ` and ${graph.more} more` : "";
  return h("figure", { class: "graph", tabindex: 0 }, svg,
    h("figcaption", {}, `Who waits for whom in ${graph.process}${more}: an arrow goes from who waits to who holds what it waits for.`));
}

function drawNode(svg, node, { x, y }) {
  const holds = node.holds.length ? `holds ${node.holds.join(", ")}` : "";
  svg.append(s("g", { class: `node${node.lock ? "" : " cause"}` },
    s("title", {}, `goroutine ${node.id} in ${node.function} ${node.what}\n${node.place}\n${holds}`),
    s("rect", { x, y, width: BOX.width, height: BOX.height, rx: 6 }),
    label(x + 10, y + 18, cut(`goroutine ${node.id}: ${node.function}`, 32), "title"),
    label(x + 10, y + 36, cut(node.place, 34), "place"),
    label(x + 10, y + 54, cut(holds, 34), "holds")));
  if (!node.lock) {
    const from = x + BOX.width;
    const middle = y + BOX.height / 2;
    svg.append(line(from, middle, from + 40, middle, "edge"), path(`M${from + 44} ${middle - 9}v18M${from + 49} ${middle - 9}v18`, "wall"));
    wrap(node.what, 26).forEach((text, number) => svg.append(label(from + 58, middle - 3 + number * 15, text, "what")));
  }
}

function wrap(text, length) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines[lines.length - 1];
    if (last && last.length + word.length > length) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines.slice(0, 3);
}

function drawEdges(svg, node, at) {
  const from = at.get(node.id);
  if (node.lock && !node.heldBy.some((id) => at.has(id))) {
    svg.append(label(from.x + BOX.width + 6, from.y + BOX.height / 2, cut(`waits for ${node.lock}`, 40), "what"));
  }
  for (const id of node.heldBy) {
    const to = at.get(id);
    if (!to) continue;
    const [x1, y1] = [from.x + BOX.width, from.y + BOX.height / 2];
    const back = to.x <= from.x;
    const [x2, y2] = back ? [to.x + BOX.width, to.y + BOX.height / 2 + 10] : [to.x, to.y + BOX.height / 2];
    const bend = back ? x1 + 70 : (x1 + x2) / 2;
    svg.append(path(`M${x1} ${y1}C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`, "edge"),
      head(x2, y2, back ? -1 : 1, "call"),
      label(back ? bend : (x1 + x2) / 2, Math.min(y1, y2) - 6, "waits for", "lock", "middle"),
      label(back ? bend : (x1 + x2) / 2, Math.max(y1, y2) + 14, cut(node.lock, 20), "lock strong", "middle"));
  }
}
