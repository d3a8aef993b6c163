// The same events as a table: for screen readers, for copying, and for whoever prefers rows of text.

const PAGE_ROWS = 250;

function showTable() {
  const pages = Math.max(Math.ceil(shown.length / PAGE_ROWS), 1);
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const first = state.page * PAGE_ROWS;
  const rows = Array.from(shown.slice(first, first + PAGE_ROWS));
  const head = ["#", "ms", "after", "where", "what happened", "unit", "shows"];
  const table = h("table", { "aria-rowcount": shown.length + 1 },
    h("caption", {}, `Events in order of time: rows ${first + 1} to ${first + rows.length} of ${shown.length}`),
    h("thead", {}, h("tr", {}, ...head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...rows.map((row, number) => tableRow(row, first + number))));
  const turn = (by, text) => h("button", { type: "button", disabled: by < 0 ? state.page === 0 : state.page === pages - 1,
    on: { click: () => { state.page += by; showTable(); } } }, text);
  const pager = pages > 1
    ? h("p", { class: "pager" }, turn(-1, "← earlier"), ` page ${state.page + 1} of ${pages} `, turn(1, "later →")) : "";
  byId("table").replaceChildren(...[pager, table, pages > 1 ? pager.cloneNode(false) : ""].filter((part) => part !== ""));
}

function tableRow(row, number) {
  const before = number ? rowMs[shown[number - 1]] : rowMs[row];
  const shows = (evidence.get(row) || []).map((which) => D.findings[which].short || D.findings[which].invariant);
  const open = h("button", { type: "button", class: "jump", on: { click: () => choose(row, { scroll: false }) } }, rowText(row));
  return h("tr", { class: shows.length ? "shows" : "", "aria-rowindex": number + 2 },
    h("td", {}, rowEvents(row)[0]), h("td", {}, showMs(rowMs[row])), h("td", {}, `+${showMs(rowMs[row] - before)}`),
    h("td", {}, where(row)), h("td", {}, open), h("td", {}, rowUnit(row)), h("td", {}, shows.length ? `▶ ${shows.join(", ")}` : ""));
}

function where(row) {
  const draw = rowDraw(row);
  const name = (lane) => D.lanes[lane][1];
  if (draw[0] === "a") return draw[1] === draw[2] ? name(draw[1]) : `${name(draw[1])} to ${name(draw[2])}`;
  const names = [];
  for (let at = 1; at < draw.length; at += 3) names.push(name(draw[at]));
  return [...new Set(names)].join(" ");
}

function toggleTable() {
  state.table = !state.table;
  byId("diagram").hidden = state.table;
  byId("table").hidden = !state.table;
  byId("map").hidden = true;
  if (state.table) {
    const at = state.selected >= 0 ? nearest[state.selected] : 0;
    state.page = Math.floor(at / PAGE_ROWS);
  }
  showControls();
  arrange(-1);
  if (byId("view").getBoundingClientRect().top < 0 || state.table) byId("view").scrollIntoView();
}
