// Elements. Texts go in as text nodes only, so that nothing in a trace is ever markup.

const SVG = "http://www.w3.org/2000/svg";

function put(element, names, children) {
  for (const [name, value] of Object.entries(names || {})) {
    if (name === "on") for (const [kind, act] of Object.entries(value)) element.addEventListener(kind, act);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== "") element.append(child);
  }
  return element;
}
function h(tag, names, ...children) { return put(document.createElement(tag), names, children); }
function s(tag, names, ...children) { return put(document.createElementNS(SVG, tag), names, children); }
function line(x1, y1, x2, y2, kind) { return s("line", { x1, y1, x2, y2, class: kind }); }
function path(d, kind) { return s("path", { d, class: kind }); }
function label(x, y, text, kind, anchor) { return s("text", { x, y, class: kind, "text-anchor": anchor }, text); }
function cut(text, length) { return text.length > length ? `${text.slice(0, Math.max(length - 1, 1))}…` : text; }
function byId(id) { return document.getElementById(id); }

// Patterns that tell states apart without colour; one hidden drawing serves all others.
function patterns() {
  const hatch = (id, kind, d) => s("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
    s("rect", { width: 6, height: 6, class: `${kind} ground` }), path(d, `${kind} ink`));
  return s("svg", { width: 0, height: 0, class: "defs", "aria-hidden": "true" }, s("defs", {},
    hatch("p-hold", "p-hold", "M-1 1L1 -1M0 6L6 0M5 7L7 5"),
    hatch("p-blocked", "p-job", "M-1 5L1 7M0 0L6 6M5 -1L7 1"),
    hatch("p-wait", "p-wait", "M3 2.2h0.01"),
    hatch("p-behind", "p-hold", "M0 3h6")));
}
