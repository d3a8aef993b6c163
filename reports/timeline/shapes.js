// The vocabulary of the drawing: a shape says who, a sign in it says what, a line's form says which sort of message.

const SIGNS = { made: "+", removed: "×", moved: "→", fault: "!", never: "×", failed: "!", missing: "?" };
const WORDS = {
  held: "held", queued: "waits", dropped: "dropped", forged: "forged", answered: "answered", amended: "amended",
  "sent twice": "twice", overtaken: "overtaken", "let go": "let go",
};

function whoShape(shape, x, y, r, kind) {
  if (shape === "driver" || shape === "step") return s("circle", { cx: x, cy: y, r, class: kind });
  if (shape === "systemd") return s("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, class: kind });
  if (shape === "cgrace" || shape === "fault") {
    return path(`M${x} ${y - r - 1}L${x + r + 1} ${y}L${x} ${y + r + 1}L${x - r - 1} ${y}Z`, kind);
  }
  if (shape === "look") return s("circle", { cx: x, cy: y, r: kind.includes("g-missing") ? r : Math.min(r, 3), class: kind });
  return path(`M${x} ${y - r}L${x + r} ${y + r}L${x - r} ${y + r}Z`, kind);
}

// One mark. Removed and missing things are hollow, everything else is filled.
function mark(x, y, shape, glyph, height, width) {
  const r = Math.max(Math.min(height / 2 - 4, 6, (width || 22) / 2 - 0.5), 1.5);
  const hollow = glyph === "removed" || glyph === "missing" || glyph === "queued" || glyph === "blocked";
  const parts = [whoShape(shape, x, y, r, `who ${shape} ${hollow ? "hollow" : "full"} g-${glyph.replace(" ", "-")}`)];
  const sign = SIGNS[glyph];
  if (sign && r >= 4) parts.push(label(x, y + 3.5, sign, hollow ? "sign dark" : "sign", "middle"));
  return parts;
}

function head(x, y, way, kind) {
  const back = x - way * 7;
  if (kind === "call") return path(`M${x} ${y}L${back} ${y - 4}L${back} ${y + 4}Z`, "head full");
  return path(`M${back} ${y - 4}L${x} ${y}L${back} ${y + 4}`, "head open");
}

// What the relay did, as a sign on its lane and a word beside it.
function deed(x, y, what) {
  const parts = [];
  if (what === "dropped" || what === "answered") {
    parts.push(path(`M${x - 5} ${y - 5}L${x + 5} ${y + 5}M${x + 5} ${y - 5}L${x - 5} ${y + 5}`, "deed cross"));
  } else if (what === "held" || what === "queued") {
    parts.push(path(`M${x - 3} ${y - 6}v12M${x + 3} ${y - 6}v12`, "deed pause"));
  } else if (what === "let go") {
    parts.push(path(`M${x - 4} ${y - 5}L${x + 5} ${y}L${x - 4} ${y + 5}Z`, "deed go"));
  } else {
    parts.push(path(`M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z`, "deed diamond"));
  }
  return parts;
}

function arrow(from, to, y, kind, what, relayX, big) {
  const parts = [];
  const way = to < from ? -1 : 1;
  if (from === to) return big ? deed(relayX, y, what || "dropped") : [];
  parts.push(line(from, y, to, y, `message ${kind}${what ? " touched" : ""}`));
  if (!big) return parts;
  const stops = what === "held" || what === "queued" || what === "dropped" || what === "answered";
  if (!stops || to !== relayX) parts.push(head(to, y, way, kind));
  if (kind === "signal") parts.push(s("circle", { cx: from + way * 4, cy: y, r: 2.5, class: "head ring" }));
  if (kind === "error") parts.push(label((from + to) / 2, y - 2, "!", "sign alarm", "middle"));
  if (what) parts.push(...deed(relayX, y, what));
  else if ((from - relayX) * (to - relayX) < 0) parts.push(line(relayX, y - 3, relayX, y + 3, "tap"));
  return parts;
}
