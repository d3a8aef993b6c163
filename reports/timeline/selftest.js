// With #selftest in its address the page tries itself out and says what it found: in a browser without a driver for it, the
// only way to know that what was written also works.

function selfTest() {
  const found = { rows: ROWS, events: D.events.length, shown: shown.length, bars: bars.length, total };
  const texts = () => document.querySelectorAll("#timeline .row").length;
  const steps = {
    texts,
    scripts: () => document.scripts.length,
    markup: () => document.querySelectorAll("img, iframe, object, embed, base, link, b b, marquee").length,
    overflow: () => document.documentElement.scrollWidth - innerWidth,
    evidence: () => {
      if (!evidenceRows.length) return true;
      choose(evidenceRows[evidenceRows.length - 1], { center: true });
      return visible(state.selected) && !byId("details").hidden && document.querySelector(".row.chosen") !== null;
    },
    zoom: () => {
      const before = total;
      zoom(1);
      const larger = total;
      zoom(-1);
      return larger > before && total === before;
    },
    time: () => {
      ACTS.s();
      const fits = total <= fitHeight() + 40 && document.querySelectorAll("#timeline .row").length > 0;
      ACTS.s();
      return fits && state.scale === "order";
    },
    all: () => {
      const level = state.level;
      zoomToFit();
      const nodes = document.querySelectorAll("#timeline *").length;
      state.level = level;
      arrange(-1);
      return nodes;
    },
    search: () => { search("job"); const hits = state.hits.length; search(""); return hits; },
    unit: () => {
      const unit = [...new Set(Array.from(shown, rowUnit))].find(Boolean);
      if (!unit) return true;
      state.unit = unit;
      arrange(-1);
      const fewer = shown.length;
      state.unit = "";
      arrange(-1);
      return fewer > 0 && fewer <= found.shown;
    },
    probes: () => {
      state.probes = state.quiet = true;
      arrange(-1);
      const all = shown.length;
      state.probes = state.quiet = false;
      arrange(-1);
      return all === ROWS;
    },
    table: () => { toggleTable(); const lines = document.querySelectorAll("#table tbody tr").length; toggleTable(); return lines; },
    print: () => { printOut(); const blocks = document.querySelectorAll("#printed .block").length; printDone(); return blocks; },
    keys: () => {
      hideDetails();
      for (const key of ["ArrowDown", "ArrowDown", "e", "Escape"]) document.dispatchEvent(new KeyboardEvent("keydown", { key }));
      return state.selected === -1 && byId("details").hidden;
    },
  };
  for (const [name, act] of Object.entries(steps)) {
    const start = performance.now();
    try { found[name] = act(); } catch (error) { found[name] = `failed: ${error}`; }
    found[`${name}_ms`] = Math.round(performance.now() - start);
  }
  document.documentElement.dataset.selftest = JSON.stringify(found);
}
