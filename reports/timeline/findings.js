// The top of the page: what the run came to, in words, with the events that show it.

const OUTCOMES = {
  reproduced: "expected of this driver, and seen", clean: "nothing expected, nothing seen", regressed: "seen, though not expected",
  vanished: "expected of this driver, but not seen", inconclusive: "it cannot be told",
};
const SIGN_OF = { violated: "✗", unknown: "?", holds: "✓" };

function showHead() {
  const head = D.head;
  document.title = `${head.outcome}: ${head.title} (${head.driver})`;
  const issue = head.issueUrl
    ? h("a", { href: head.issueUrl, rel: "noopener noreferrer" }, head.issue) : h("span", {}, head.issue);
  const rows = head.rows.length ? ` · row ${head.rows.join(", ")}` : "";
  byId("head").append(
    h("p", { class: "over" }, "cgrace report · ", head.name, rows, head.issue ? " · " : "", issue),
    h("h1", {}, head.title),
    h("p", { class: "facts" },
      h("strong", { class: head.passes ? "outcome passes" : "outcome fails" }, `${head.passes ? "✓" : "✗"} ${head.outcome}`),
      h("span", {}, OUTCOMES[head.outcome] || ""),
      h("span", {}, "driver ", h("b", {}, head.driver), ` ${head.module}`),
      h("span", {}, head.place)),
    story(head),
    ...(head.passes ? [] : head.reasons.map((reason) => h("p", { class: "reason" }, `Not as history says: ${reason}`))),
  );
}

function story(head) {
  const list = h("dl", { class: "story" });
  const add = (name, value) => { if (value && value.length) list.append(h("dt", {}, name), h("dd", {}, value)); };
  add("The driver was asked", head.asked.map((text) => h("div", {}, text)));
  add("systemd was made to", head.systemd);
  add("What the driver did", head.did);
  return list;
}

function showFindings() {
  const wrong = D.findings.filter((finding) => finding.verdict !== "holds");
  const held = D.findings.filter((finding) => finding.verdict === "holds");
  const section = byId("findings");
  if (!wrong.length) section.append(h("p", { class: "finding holds" }, "✓ Nothing was violated."));
  const drawn = { graph: false };
  for (const finding of wrong) section.append(card(finding, drawn));
  if (held.length) {
    const list = h("ul", {}, ...held.slice(0, 50).map((finding) =>
      h("li", {}, `✓ ${finding.invariant}${finding.subject ? ` (${finding.subject})` : ""}: ${finding.summary || "holds"}`)));
    section.append(h("details", { class: "held" }, h("summary", {}, `What holds (${held.length})`), list));
  }
}

function card(finding, drawn) {
  const titles = ["What happened", "Why it is wrong", "What to look at"];
  const told = h("ol", { class: "told" }, ...finding.sentences.map((sentence, number) =>
    h("li", {}, finding.sentences.length === 3 ? h("b", {}, `${titles[number]} `) : "", sentence)));
  const article = h("article", { class: `finding ${finding.verdict}` },
    h("h2", {}, h("span", { class: "verdict" }, `${SIGN_OF[finding.verdict]} ${finding.verdict}: “${finding.invariant}”`),
      " ", finding.summary, h("span", { class: "grade", title: gradeMeans(finding.grade) }, `grade: ${finding.grade}`)),
    finding.sentences.length ? told : "");
  if (finding.deadlock && D.graph && !drawn.graph) {
    drawn.graph = true;
    article.append(drawGraph(D.graph));
  }
  if (finding.evidence.length) article.append(h("div", { class: "lines" }, ...finding.evidence.map((text) => h("div", {}, text))));
  article.append(chips(finding));
  if (finding.assumptions.length) {
    article.append(h("details", {}, h("summary", {}, "What this takes for granted"),
      h("ul", {}, ...finding.assumptions.map((line) => h("li", {}, line)))));
  }
  return article;
}

function chips(finding) {
  const known = finding.events.filter((event) => rowOf[event] !== undefined && event < D.events.length);
  if (!known.length) return "";
  const rows = [...new Set(known.map((event) => rowOf[event]))];
  return h("p", { class: "chips" }, h("span", {}, "Shown by "), ...rows.slice(0, 16).map((row) =>
    h("button", { type: "button", class: "chip", on: { click: () => choose(row, { center: true }) } },
      `▶ #${rowEvents(row)[0]} ${rowText(row)}`)),
    rows.length > 16 ? h("span", {}, ` and ${rows.length - 16} more`) : "");
}

function gradeMeans(grade) {
  return {
    natural: "natural: real systemd did it by itself or under its own rules",
    legal: "legal: a correct bus and systemd may do it",
    impossible: "impossible: no correct bus does it; never speaks against a systemd",
  }[grade] || "";
}

function showAbout() {
  const head = D.head;
  const list = h("dl", {});
  const add = (name, value) => { if (value && value.length) list.append(h("dt", {}, name), h("dd", {}, value)); };
  add("mechanism", head.mechanism);
  add("driver", `${head.driver}: ${head.module}${head.proof ? ` (${head.proof})` : ""}`);
  add("run it again", head.command ? [h("code", {}, head.command)] : "");
  add("versions", head.versions.map(([name, value]) => h("div", {}, `${name} ${value}`)));
  add("clock", `${head.clock}; times here are milliseconds since the first event`);
  byId("about").append(h("details", {}, h("summary", {}, "The scenario, the versions and the command"), list));
}
