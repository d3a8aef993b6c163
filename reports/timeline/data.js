// The run as page.py packed it, and what can be asked of it. Nothing here touches the page's elements.

const D = JSON.parse(document.getElementById("run").textContent);
const T = D.texts;
const ROWS = D.rows.length;
const PROBE = 1;
const QUIET = 2;

const rowOf = new Int32Array(D.events.length);
const rowMs = new Float64Array(ROWS);
D.rows.forEach((row, number) => {
  const events = rowEvents(number);
  for (const event of events) rowOf[event] = number;
  rowMs[number] = eventMs(events[0]);
});
const spanMs = ROWS ? Math.max(rowMs[ROWS - 1], 0.001) : 1;

const evidence = new Map(); // row: numbers of the findings that it shows
D.findings.forEach((finding, number) => {
  if (finding.verdict === "holds") return;
  for (const event of finding.events) {
    const row = rowOf[event];
    if (row === undefined) continue;
    if (!evidence.has(row)) evidence.set(row, []);
    if (!evidence.get(row).includes(number)) evidence.get(row).push(number);
  }
});
const evidenceRows = [...evidence.keys()].sort((a, b) => a - b);

const bars = D.bars.map(([kind, lane, track, first, last, label, note, end, unit, cause, parts]) => ({
  kind, lane, track, first, last, label: T[label], note: T[note], end: T[end], unit: T[unit], cause, parts,
  from: rowOf[first], to: last < 0 ? ROWS - 1 : rowOf[last],
}));

function rowEvents(number) {
  const events = D.rows[number][0];
  return typeof events === "number" ? [events] : events;
}
function rowText(number) { return T[D.rows[number][1]]; }
function rowUnit(number) { return T[D.rows[number][2]]; }
function rowFlags(number) { return D.rows[number][3]; }
function rowDraw(number) { return D.draws[D.rows[number][4]]; }
function eventMs(event) { return D.events[event][1] / 1e6; }
function eventKind(event) { return D.kinds[D.events[event][0]][0]; }

// [name, value] of an event's fields that say something.
function eventFields(event) {
  const values = D.events[event];
  const [, ...names] = D.kinds[values[0]];
  const fields = [];
  names.forEach((name, place) => {
    let value = values[place + 2];
    if (name.startsWith("$")) {
      name = name.slice(1);
      value = value === undefined ? "" : T[value];
    }
    const empty = value === undefined || value === "" || value === null || value === false || value === 0;
    if (!empty && !(Array.isArray(value) && !value.length)) fields.push([name.replaceAll("_", " "), value]);
  });
  return fields;
}

function messageOf(event) {
  const names = D.kinds[D.events[event][0]];
  const place = names.indexOf("message");
  return place < 0 ? 0 : D.events[event][place + 1] || 0;
}

// Rows that tell of one message, in order.
function rowsOfMessage(message) {
  const found = new Set();
  for (let event = 0; event < D.events.length; event++) {
    if (messageOf(event) === message) found.add(rowOf[event]);
  }
  return [...found].sort((a, b) => a - b);
}

// Texts for people: a time in milliseconds, a span.
function showMs(ms) { return ms.toFixed(ms < 1000 ? 2 : 1); }
function showSpan(ms) {
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  return `${(ms / 1000).toFixed(2)} s`;
}
