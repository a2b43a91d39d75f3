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

  for (const wide of document.querySelectorAll(".wide")) {
    const scroll = wide.querySelector(".scroll");
    const update = () => {
      const beyond = scroll.scrollWidth - scroll.clientWidth;
      wide.classList.toggle("scrolls", beyond > 1);
      wide.classList.toggle("more", beyond - scroll.scrollLeft > 1);
    };
    scroll.addEventListener("scroll", update);
    new ResizeObserver(update).observe(scroll);
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
  // Long names of categories would leave no room for the figure: break them into lines, upright below a narrow panel.
  const plain = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  function lines(text, length, most) {
    const parts = [""];
    for (const word of plain(text).split(/(?<=[\s_,-])/)) {
      for (const piece of word.match(new RegExp(`[^]{1,${length}}`, "g")) ?? []) {
        if ((parts.at(-1) + piece).trimEnd().length > length) parts.push("");
        parts[parts.length - 1] += piece;
      }
    }
    const kept = parts.slice(0, most).map((part) => part.trim());
    if (parts.length > most) kept[most - 1] = kept[most - 1].slice(0, length - 1) + "…";
    return kept.map(escaped).join("<br>");
  }
  function named(axis, isX, width) {
    if (!axis.ticktext || !axis.tickvals.length || axis.type === "log") return axis;
    const longest = Math.max(...axis.ticktext.map((name) => plain(name).length));
    if (!isX) {
      const [length, most] = width < 480 ? [14, 3] : [30, 2];
      return { ...axis, ticktext: axis.ticktext.map((name) => lines(name, length, most)), tickfont: { size: width < 480 ? 10 : 12 } };
    }
    const upright = longest * axis.ticktext.length * 7 > width - 90;
    return { ...axis, ticktext: axis.ticktext.map((name) => lines(name, upright ? 18 : 30, 1)), tickangle: upright ? -90 : 0, tickfont: { size: 11 } };
  }
  // As high as its names need, one under the other: a panel made narrow has names of several lines.
  function tall(axis, height) {
    if (!axis.ticktext || axis.type === "log") return height;
    const most = Math.max(1, ...axis.ticktext.map((name) => name.split("<br>").length));
    return Math.max(height, 80 + 1.35 * (axis.tickfont?.size ?? 12) * most * axis.ticktext.length);
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
      const width = plots[index].clientWidth;
      [layout.xaxis, layout.yaxis] = [named(layout.xaxis, true, width), named(layout.yaxis, false, width)];
      layout.shapes = layout.shapes.filter((shape) => !hidden.has(shape.name));
      await Plotly.react(plots[index], data, fill(layout, theme, tall(layout.yaxis, panel.height)), config);
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
