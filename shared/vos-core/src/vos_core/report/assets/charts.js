// Draws each figure when it comes into view, in the page's own colours, and again when those change.
(function () {
  "use strict";
  var dark = window.matchMedia("(prefers-color-scheme: dark)");

  function draw(element) {
    var figure = JSON.parse(document.getElementById(element.dataset.figure).textContent);
    var style = getComputedStyle(document.documentElement);
    var text = style.getPropertyValue("--text").trim();
    var line = style.getPropertyValue("--line").trim();
    figure.layout.font = { color: text, family: getComputedStyle(document.body).fontFamily, size: 13 };
    ["xaxis", "yaxis"].forEach(function (name) {
      figure.layout[name] = Object.assign({}, figure.layout[name], { gridcolor: line, linecolor: line, automargin: true });
    });
    figure.layout.hoverlabel = { bgcolor: style.getPropertyValue("--panel").trim(), font: { color: text } };
    Plotly.react(element, figure.data, figure.layout, { responsive: true, displaylogo: false, displayModeBar: false });
    element.dataset.drawn = "yes";
  }

  var watcher = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    });
  }, { rootMargin: "400px" });
  document.querySelectorAll("[data-figure]").forEach(function (element) { watcher.observe(element); });
  dark.addEventListener("change", function () {
    document.querySelectorAll("[data-drawn]").forEach(draw);
  });
})();
