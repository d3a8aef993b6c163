// For the printer: the timeline in blocks that a page does not cut, since paper does not scroll. Of a long run, what matters.

const BLOCK_ROWS = 34;
const PRINT_ROWS_MAX = 700;
const AROUND = 30;
let folded = []; // what is folded away on the screen: paper cannot be unfolded

function printedPositions() {
  const all = Array.from(shown, (_, at) => at);
  if (all.length <= PRINT_ROWS_MAX) return all;
  const near = [0, shown.length - 1, ...evidenceRows.map((row) => nearest[row])];
  if (state.selected >= 0) near.push(nearest[state.selected]);
  const wanted = new Set();
  for (const at of near) {
    for (let other = at - AROUND; other <= at + AROUND && wanted.size < PRINT_ROWS_MAX; other++) {
      if (other >= 0 && other < shown.length) wanted.add(other);
    }
  }
  return [...wanted].sort((a, b) => a - b);
}

function printOut() {
  const [scale, level] = [state.scale, state.level];
  [state.scale, state.level] = ["order", 6];
  layOut();
  const width = 1000;
  placeLanes(width);
  folded = [...document.querySelectorAll("#about details, #findings details")].filter((fold) => !fold.open);
  for (const fold of folded) fold.open = true;
  const sheet = byId("printed");
  const positions = printedPositions();
  sheet.replaceChildren(drawLaneNames(width));
  for (let at = 0; at < positions.length;) {
    const first = positions[at];
    let count = 1;
    while (count < BLOCK_ROWS && positions[at + count] === first + count) count++;
    if (at && positions[at - 1] !== first - 1) sheet.append(h("p", {}, `… ${first - positions[at - 1] - 1} rows are left out …`));
    sheet.append(printBlock(first, first + count, width));
    at += count;
  }
  [state.scale, state.level] = [scale, level];
}

function printBlock(first, last, width) {
  const edge = rowHeight() / 2;
  const top = first ? (tops[first - 1] + edge) : 0;
  const bottom = tops[last - 1] + edge;
  const { svg, texts } = drawStretch(first, last, top, bottom, width);
  const block = h("div", { class: "stretch block" }, texts, svg);
  block.style.height = `${bottom - top}px`;
  return block;
}

function printDone() {
  for (const fold of folded) fold.open = false;
  byId("printed").replaceChildren();
  arrange(-1);
}
