// Controls and keys. Every control is a real one, so that it has a name and a focus; single keys work on the timeline only.

const UNITS_MAX = 2000;
const KEYS = [
  ["↑ ↓ or k j", "the event before, after"], ["e E", "the next, the previous evidence"], ["/", "search"],
  ["n N", "the next, the previous match"], ["+ − 0", "larger, smaller, all of it"], ["s", "by order or by time"],
  ["t", "timeline or table"], ["Esc", "close"], ["Ctrl + wheel", "larger, smaller"],
];

function button(id, text, title, act) {
  return h("button", { type: "button", id, title, on: { click: act } }, text);
}
function check(id, text, key, title) {
  const box = h("input", { type: "checkbox", id, on: { change: () => { state[key] = box.checked; arrange(); } } });
  return h("label", { for: id, title }, box, ` ${text}`);
}

function showToolbar() {
  const field = h("input", { type: "search", id: "words", placeholder: "search", "aria-label": "Search in the events", spellcheck: "false",
    on: { input: () => { search(field.value); paint(); showCounts(); }, keydown: searchKey } });
  const units = [...new Set(D.rows.map((row) => T[row[2]]))].filter(Boolean).sort().slice(0, UNITS_MAX);
  const unit = h("select", { id: "unit", "aria-label": "Only this unit", on: { change: () => { state.unit = unit.value; arrange(); } } },
    h("option", { value: "" }, "all units"), ...units.map((name) => h("option", { value: name }, name)));
  const scale = h("select", { id: "scale", "aria-label": "Scale", on: { change: () => { state.scale = scale.value; arrange(); } } },
    h("option", { value: "order" }, "by order"), h("option", { value: "time" }, "by time"));
  const probes = D.rows.filter((row) => row[3] & PROBE).length;
  const quiet = D.rows.filter((row) => row[3] & QUIET && !(row[3] & PROBE)).length;
  byId("toolbar").append(
    h("span", { class: "group" }, button("earlier", "◀", "Previous evidence (E)", () => stepAmong(evidenceRows, -1)),
      h("span", {}, "evidence"), button("later", "▶", "Next evidence (e)", () => stepAmong(evidenceRows, 1))),
    h("span", { class: "group" }, field, h("span", { id: "found", "aria-live": "polite" })),
    h("span", { class: "group" }, unit, scale),
    h("span", { class: "group" }, button("smaller", "−", "Smaller (-)", () => zoom(-1)),
      button("fit", "all", "All of it (0)", zoomToFit), button("larger", "+", "Larger (+)", () => zoom(1))),
    h("span", { class: "group" }, probes ? check("probes", `start-up (${probes})`, "probes", "What happened before the driver was ready") : "",
      quiet ? check("quiet", `looks (${quiet})`, "quiet", "Looks that found nothing, match rules, connections") : ""),
    h("span", { class: "group" }, button("tabular", "table", "The same as a table (t)", toggleTable), help()),
    h("span", { id: "count", class: "count" }));
  if (!evidenceRows.length) byId("earlier").parentNode.hidden = true;
}

function help() {
  const keys = h("dl", { class: "keys" });
  for (const [key, does] of KEYS) keys.append(h("dt", {}, key), h("dd", {}, does));
  return h("details", { class: "help" }, h("summary", {}, "legend"), h("div", { class: "sheet" }, legend(), h("h3", {}, "Keys"), keys));
}

function legend() {
  const sample = (width, ...parts) => s("svg", { width, height: 20, class: "sample" }, ...parts.flat());
  const item = (picture, text) => h("li", {}, picture, h("span", {}, text));
  const lineOf = (kind) => sample(60, arrow(4, 54, 10, kind, "", 29, true));
  const touched = (what) => sample(60, arrow(4, what === "held" || what === "dropped" ? 30 : 54, 10, "signal", what, 30, true));
  const bar = (kind, part) => sample(60, s("g", { class: `bar ${kind}` }, s("rect", { x: 2, y: 5, width: 54, height: 10, class: part, rx: 2 })));
  const who = (shape, glyph) => sample(24, mark(12, 10, shape, glyph, 22));
  return h("ul", { class: "legend" },
    item(lineOf("call"), "call"), item(lineOf("reply"), "reply"), item(lineOf("error"), "error"), item(lineOf("signal"), "signal"),
    item(touched("held"), "held"), item(touched("let go"), "let go"), item(touched("dropped"), "dropped, or answered by cgrace"),
    item(touched("amended"), "forged, amended, sent twice"),
    item(bar("step", "body"), "step"), item(bar("wait", "body"), "its driver waits"), item(bar("hold", "body"), "a message is held"),
    item(bar("job", "state queued"), "job queued"), item(bar("job", "state blocked"), "job blocked"), item(bar("job", "state started"), "job runs"),
    item(who("driver", "made"), "the driver makes a cgroup"), item(who("systemd", "made"), "systemd makes one"),
    item(who("systemd", "removed"), "systemd removes one"), item(who("cgrace", "removed"), "cgrace removes one"),
    item(who("other", "moved"), "somebody else moves a process"));
}

function searchKey(event) {
  if (event.key === "Enter") { stepAmong(state.hits, event.shiftKey ? -1 : 1); event.preventDefault(); }
  if (event.key === "Escape") { event.target.value = ""; search(""); paint(); showCounts(); byId("timeline").focus({ preventScroll: true }); }
}

function showCounts() {
  byId("count").textContent = `${shown.length} of ${ROWS} rows, ${D.events.length} events, ${showSpan(spanMs)}`;
  byId("found").textContent = state.words ? `${state.hits.length} found` : "";
}

// The controls say what the state says.
function showControls() {
  const set = (id, key, value) => { const element = byId(id); if (element) element[key] = value; };
  set("probes", "checked", state.probes);
  set("quiet", "checked", state.quiet);
  set("unit", "value", state.unit);
  set("scale", "value", state.scale);
  byId("tabular").textContent = state.table ? "timeline" : "table";
  byId("tabular").setAttribute("aria-pressed", String(state.table));
}

const ACTS = {
  ArrowDown: () => step(1), j: () => step(1), ArrowUp: () => step(-1), k: () => step(-1),
  e: () => stepAmong(evidenceRows, 1), E: () => stepAmong(evidenceRows, -1),
  n: () => stepAmong(state.hits, 1), N: () => stepAmong(state.hits, -1),
  "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1), 0: () => zoomToFit(),
  "/": () => byId("words").focus(), t: () => toggleTable(), Escape: () => hideDetails(),
  s: () => { state.scale = state.scale === "time" ? "order" : "time"; showControls(); arrange(); },
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = document.activeElement;
  const free = !at || at === document.body || at.id === "timeline";
  const act = ACTS[event.key];
  if (!act || (!free && event.key !== "Escape") || (at && at.id === "words")) return;
  event.preventDefault();
  act();
}
