// Plots are drawn when they come into view, in the page's colours; the sliders move one picture over another.
const plots = [...document.querySelectorAll(".plot")];
const loaded = (async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotlyjs").textContent), (one) => one.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
})();
loaded.catch((error) => plots.forEach((plot) => { plot.textContent = `This browser cannot draw plots: ${error}`; }));

async function draw(plot) {
  await loaded;
  const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
  const color = getComputedStyle(document.body).color;
  Object.assign(layout, { paper_bgcolor: "transparent", plot_bgcolor: "transparent", autosize: true });
  layout.font = { ...layout.font, color };
  const axes = Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name));
  for (const axis of new Set([...axes, "xaxis", "yaxis"])) {
    layout[axis] = { automargin: true, gridcolor: "rgba(128,128,128,.3)", zerolinecolor: "rgba(128,128,128,.5)", ...layout[axis] };
  }
  await Plotly.newPlot(plot, data, layout, { displaylogo: false, responsive: true });
}

async function drawOnce(plot) {
  seen.unobserve(plot);
  if (plot.dataset.drawn) return;
  plot.dataset.drawn = true;
  await draw(plot);
}

const seen = new IntersectionObserver((entries) => {
  entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawOnce(entry.target));
}, { rootMargin: "300px" });
plots.forEach((plot) => seen.observe(plot));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  plots.filter((plot) => plot.childElementCount).forEach(draw);
});
// For paper, those that have not come into view are drawn when there is nothing else to do.
const idle = () => new Promise((done) => (window.requestIdleCallback || setTimeout)(done));
loaded.then(async () => {
  for (const plot of plots) {
    await idle();
    await drawOnce(plot);
  }
}, () => {});
// A plot that was drawn in a folded part has no size yet.
for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => details.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.Plots.resize(plot)));
}
const folded = [...document.querySelectorAll("details:not([open])")];
addEventListener("beforeprint", () => folded.forEach((one) => { one.open = true; }));
addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));

for (const slider of document.querySelectorAll(".slider")) {
  const [pair, split, zoom] = [".pair", "[name=split]", "[name=zoom]"].map((name) => slider.querySelector(name));
  // The boundary is where the slider is, in what can be seen of zoomed pictures.
  const divide = () => {
    slider.style.setProperty("--boundary", `${pair.scrollLeft + pair.clientWidth * split.value / 100}px`);
  };
  split.addEventListener("input", divide);
  pair.addEventListener("scroll", divide);
  zoom.addEventListener("input", () => { slider.style.setProperty("--zoom", zoom.value); divide(); });
  new ResizeObserver(divide).observe(pair);
}
