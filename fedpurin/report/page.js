// Behaviour of the report page: unpack the library and the figures, draw them, follow the theme, hand out the files.
"use strict";
(async () => {
  if (!("DecompressionStream" in window)) return; // an old browser keeps the still pictures and the relative links

  async function unpack(id) {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  const { figures, files, themes } = JSON.parse(await unpack("data"));

  // Links give out what the page itself holds, so that they work wherever the page lies.
  for (const link of document.querySelectorAll(".links a")) {
    const name = link.getAttribute("href");
    const still = link.closest("figure").querySelector(".still");
    if (link.dataset.kind === "svg") link.href = still.src;
    else if (name in files) link.href = URL.createObjectURL(new Blob([files[name]], { type: "text/plain" }));
    link.download = name.split("/").pop();
  }

  const script = document.createElement("script");
  script.textContent = await unpack("library");
  document.head.append(script);
  if (!window.Plotly) return;
  document.documentElement.classList.add("scripted");

  const dark = matchMedia("(prefers-color-scheme: dark)");

  function colour(theme, name, percent) {
    if (!percent) return theme[name];
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(theme[name].slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${percent / 100})`;
  }
  function themed(value, theme) {
    const text = JSON.stringify(value).replace(/§(\w+)(?:\/(\d+))?/g, (all, name, percent) => (name in theme ? colour(theme, name, percent) : all));
    return JSON.parse(text);
  }
  function fill(layout, theme, height) {
    const axis = {
      gridcolor: theme.grid, zeroline: false, linecolor: theme.muted, ticks: "outside", ticklen: 4,
      tickcolor: theme.muted, automargin: true, fixedrange: true, exponentformat: "SI",
    };
    return {
      ...layout, height, showlegend: false, autosize: true, dragmode: false,
      xaxis: { ...axis, ...layout.xaxis, title: { font: { size: 12 }, standoff: 8, ...layout.xaxis.title } },
      yaxis: { ...axis, ...layout.yaxis, title: { font: { size: 12 }, standoff: 8, ...layout.yaxis.title } },
      margin: { l: 8, r: 12, t: 10, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: theme.ink },
      hoverlabel: { align: "left", bgcolor: theme.paper, bordercolor: theme.muted, font: { color: theme.ink } },
    };
  }
  // On a phone long names of categories would leave no room for the figure: break them into lines.
  function broken(axis) {
    const text = axis.ticktext.map((name) => (name.length > 12 ? name.replace(/_/g, "_<br>").replace(/ /, "<br>") : name));
    return { ...axis, ticktext: text, tickfont: { size: 10 } };
  }
  const config = { displayModeBar: false, responsive: true, scrollZoom: false };

  async function draw(key) {
    const theme = themes[dark.matches ? "dark" : "light"];
    const figure = document.getElementById(key);
    const plots = figure.querySelectorAll(".plot");
    const hidden = new Set(
      [...figure.querySelectorAll(".legend [aria-pressed=false]")].map((button) => button.dataset.label),
    );
    for (const [index, panel] of figures[key].entries()) {
      const { data, layout } = themed({ data: panel.data, layout: panel.layout }, theme);
      for (const trace of data) trace.visible = !hidden.has(trace.name);
      if (plots[index].clientWidth < 480 && layout.yaxis.ticktext) layout.yaxis = broken(layout.yaxis);
      layout.shapes = layout.shapes.filter((shape) => !hidden.has(shape.name));
      await Plotly.react(plots[index], data, fill(layout, theme, panel.height), config);
    }
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
      draw(button.closest("figure").id);
    });
  }
  dark.addEventListener("change", async () => {
    for (const key of Object.keys(figures)) await draw(key);
  });
  for (const key of Object.keys(figures)) {
    await draw(key);
    await new Promise((resume) => setTimeout(resume)); // let the browser paint and scroll in between
  }
  document.documentElement.dataset.drawn = Object.keys(figures).length;
})();
