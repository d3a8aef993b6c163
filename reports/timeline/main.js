// Puts the page together, and listens.

document.body.prepend(patterns());
if (innerWidth < NARROW) state.level = 9;
showHead();
showFindings();
showAbout();
showToolbar();
arrange(-1);
addEventListener("scroll", repaint, { passive: true });
addEventListener("resize", () => arrange(-1));
addEventListener("keydown", onKey);
addEventListener("beforeprint", printOut);
addEventListener("afterprint", printDone);
byId("timeline").addEventListener("click", (event) => {
  const at = event.target.closest("[data-row]");
  const box = byId("timeline").getBoundingClientRect();
  if (at) choose(Number(at.dataset.row), { scroll: false });
  else if (shown.length) choose(shown[nearestTo(event.clientY - box.top)], { scroll: false });
});
byId("view").addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1 : -1);
}, { passive: false });
byId("map").addEventListener("click", (event) => {
  const box = byId("timeline").getBoundingClientRect();
  scrollTo(0, scrollY + box.top + (event.clientY / innerHeight) * total - innerHeight / 2);
});
document.documentElement.dataset.ready = Math.round(performance.now());
const wanted = /^#e([0-9]{1,7})$/.exec(location.hash);
if (wanted && rowOf[Number(wanted[1])] !== undefined) choose(rowOf[Number(wanted[1])], { center: true });
if (location.hash === "#selftest") selfTest();
