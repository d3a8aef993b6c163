// The chosen row: everything that its events say, what became of its message, and which bars it lies in.

const EVENTS_MAX = 24;

function showDetails(row) {
  const panel = byId("details");
  const wasHidden = panel.hidden;
  panel.hidden = false;
  const close = h("button", { type: "button", class: "close", "aria-label": "Close", on: { click: hideDetails } }, "×");
  const events = rowEvents(row);
  panel.replaceChildren(
    h("div", { class: "top" }, h("h2", {}, rowText(row)), close),
    ...findingsOf(row),
    ...cause(row),
    ...life(row),
    ...events.slice(0, EVENTS_MAX).map(oneEvent),
    events.length > EVENTS_MAX ? h("p", {}, `and ${events.length - EVENTS_MAX} more events`) : "",
  );
  panel.scrollTop = 0;
  if (wasHidden) arrange(row);
}

function hideDetails() {
  byId("details").hidden = true;
  state.selected = -1;
  arrange();
  byId("timeline").focus({ preventScroll: true });
}

function oneEvent(event) {
  const list = h("dl", {});
  for (const [name, value] of eventFields(event)) {
    const text = typeof value === "object" ? JSON.stringify(value, null, 1) : String(value);
    const long = text.length > 80 || text.includes("\n");
    list.append(h("dt", {}, name), h("dd", {}, long ? h("pre", {}, text) : text));
  }
  return h("section", { class: "event" },
    h("h3", {}, `#${event} ${eventKind(event)}`, h("span", { class: "at" }, `${showMs(eventMs(event))} ms`)), list);
}

function findingsOf(row) {
  return (evidence.get(row) || []).map((number) => {
    const finding = D.findings[number];
    return h("p", { class: "evidence" }, `▶ shows that ${finding.invariant} is ${finding.verdict}: ${finding.summary}`);
  });
}

function jump(row, text) {
  return h("button", { type: "button", class: "jump", on: { click: () => choose(row, { center: true }) } },
    text || `#${rowEvents(row)[0]} ${rowText(row)}`);
}

// Bars that begin or end here: what they say, and what made them end.
function cause(row) {
  const parts = [];
  for (const bar of bars) {
    if (bar.kind === "behind" || (bar.from !== row && bar.to !== row)) continue;
    if (parts.length > 12) break;
    const other = bar.from === row ? bar.to : bar.from;
    const lasted = showSpan(rowMs[bar.to] - rowMs[bar.from]);
    const item = h("div", { class: `lasting ${bar.kind}` }, h("p", {}, `${bar.note}; ${bar.end || "over"}, after ${lasted}.`));
    if (other !== row) item.append(h("p", {}, bar.from === row ? "until " : "since ", jump(other)));
    if (bar.cause >= 0) item.append(h("p", {}, "let go by ", jump(rowOf[bar.cause])));
    parts.push(item);
  }
  return parts;
}

function life(row) {
  const message = rowEvents(row).map(messageOf).find((number) => number > 0);
  if (!message) return [];
  const rows = rowsOfMessage(message);
  if (rows.length < 2) return [];
  return [h("div", { class: "lasting" }, h("p", {}, `Message ${message}:`),
    ...rows.map((other) => h("p", {}, other === row ? `● ${rowText(other)}` : jump(other))))];
}
