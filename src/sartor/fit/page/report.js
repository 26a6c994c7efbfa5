"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const points = new Map(data.points.map((point) => [point.id, point]));
  const chart = document.getElementById("chart");
  const detail = document.getElementById("detail");
  const rows = new Map(
    [...document.querySelectorAll("#points tr[data-id]")].map((row) => [row.dataset.id, row]));
  let cost = data.axes[0].field;
  let chosen = data.chosen;

  // Names come from users: everything is set as text, and Plotly's own markup is escaped.
  const plain = (text) => String(text)
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const quality = (value) => value * data.scale;

  function element(tag, text, ...children) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    made.append(...children);
    return made;
  }

  function pairs(entries) {
    const list = element("dl");
    for (const [key, value] of entries) list.append(element("dt", key), element("dd", value));
    return list;
  }

  // --- the chart ---------------------------------------------------------------------------

  function steps(group) {
    const sorted = [...group].sort((a, b) => a[cost] - b[cost] || b.accuracy - a.accuracy);
    let best = -Infinity;
    return sorted.filter((point) => point.accuracy > best && ((best = point.accuracy), true));
  }

  function markers(name, group, marker, more = {}) {
    const trace = {
      name, type: "scatter", mode: "markers", marker,
      x: group.map((point) => point[cost]),
      y: group.map((point) => quality(point.accuracy)),
      customdata: group.map((point) => point.id),
      text: group.map((point) => point.hover.map(plain).join("<br>")),
      hovertemplate: "%{text}<extra></extra>",
      ...more,
    };
    if (cost === "latency_ms") {
      trace.error_x = {
        type: "data", array: group.map((point) => point.iqr / 2),
        thickness: 1.2, width: 3, color: marker.line ? marker.line.color : marker.color,
      };
    }
    return trace;
  }

  function traces() {
    const all = data.points;
    const on = all.filter((point) => point.frontier);
    const line = steps(on);
    const kind = (status) => all.filter((p) => !p.frontier && !p.anchor && p.status === status);
    const hollow = (name, symbol, size, width) => ({
      symbol, size, color: "rgba(0,0,0,0)", line: { color: colour(name), width },
    });
    const anchors = all.filter((point) => point.anchor);
    const made = [
      { name: "line", type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false,
        line: { shape: "hv", color: colour("frontier"), width: 2 }, opacity: 0.55,
        x: line.map((point) => point[cost]), y: line.map((point) => quality(point.accuracy)) },
      markers("dominated", kind("dominated"), hollow("dominated", "circle", 8, 1.5)),
      markers("dropped", kind("dropped"), {
        symbol: "x-thin", size: 9, color: colour("dropped"),
        line: { color: colour("dropped"), width: 2 } }),
      markers("frontier", on, { size: 11, color: colour("frontier") }),
      markers("as given", anchors, hollow("anchor", "diamond", 15, 2.5), {
        mode: "markers+text", textposition: "bottom right",
        textfont: { color: colour("anchor"), size: 12 },
        hovertext: anchors.map((point) => point.hover.map(plain).join("<br>")),
        text: anchors.map((point) => plain(point.id)),
        hovertemplate: "%{hovertext}<extra></extra>" }),
    ].filter((trace) => trace.x.length);
    const ring = (id, name, size, width) => {
      const point = points.get(id);
      if (point) {
        made.push({
          name, type: "scatter", mode: "markers", hoverinfo: "skip", showlegend: name !== "chosen",
          marker: hollow("pick", "circle", size, width),
          x: [point[cost]], y: [quality(point.accuracy)] });
      }
    };
    ring(data.best, data.best_label, 20, 2.5);
    if (chosen !== data.best) ring(chosen, "chosen", 20, 1.2);
    return made;
  }

  function bounds() {
    const shapes = [];
    const annotations = [];
    for (const bound of data.bounds) {
      const upright = bound.field === cost;
      if (!upright && bound.field !== "accuracy") continue;
      const at = upright ? bound.value : quality(bound.value);
      const line = { color: colour("pick"), width: 1.5, dash: "dash" };
      shapes.push(upright
        ? { type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line }
        : { type: "line", y0: at, y1: at, xref: "paper", x0: 0, x1: 1, line });
      annotations.push({
        text: plain(bound.text), showarrow: false, font: { color: colour("pick"), size: 12 },
        ...(upright
          ? { x: Math.log10(at), xanchor: "left", yref: "paper", y: 1, yanchor: "top" }
          : { xref: "paper", x: 0, xanchor: "left", y: at, yanchor: "bottom" }) });
    }
    return { shapes, annotations };
  }

  function draw() {
    const axis = data.axes.find((each) => each.field === cost);
    const values = data.points.map((point) => point[cost]).filter((value) => value > 0);
    const wide = Math.max(...values) / Math.min(...values) > 8;
    const lines = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false };
    const layout = {
      margin: { l: 62, r: 18, t: 12, b: 56 }, hovermode: "closest", ...bounds(),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("ink"), family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), align: "left",
        font: { color: colour("ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("dominated"), activecolor: colour("ink") },
      legend: { orientation: "v", x: 1, xanchor: "right", y: 0.02, yanchor: "bottom",
        bgcolor: colour("card") },
      xaxis: { ...lines, type: "log", title: { text: plain(axis.title) }, tickformat: "~s",
        dtick: wide ? "D2" : undefined, nticks: 8, exponentformat: "SI", automargin: true },
      yaxis: { ...lines, title: { text: plain(data.quality) }, automargin: true },
    };
    Plotly.react(chart, traces(), layout,
      {
        displaylogo: false, responsive: true,
        modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
      });
  }

  // --- the chosen model --------------------------------------------------------------------

  function stepItem(step) {
    const item = element("li", "", element("strong", step.move));
    const settings = Object.entries({ ...step.config, ...step.plan });
    const short = settings.filter(([, value]) => JSON.stringify(value).length <= 48);
    const long = settings.filter(([, value]) => JSON.stringify(value).length > 48);
    if (short.length) {
      item.append(pairs(short.map(([key, value]) =>
        [key, typeof value === "string" ? value : JSON.stringify(value)])));
    }
    for (const [key, value] of long) {
      item.append(element("details", "", element("summary", key),
        element("pre", JSON.stringify(value, null, 1))));
    }
    return item;
  }

  function show(id) {
    const point = points.get(id);
    if (!point) return;
    chosen = id;
    rows.forEach((row, key) => row.classList.toggle("chosen", key === id));
    const steps = element("ol", "", ...point.recipe.steps.map(stepItem));
    const parts = [
      element("h3", point.id), element("p", point.words), pairs(point.numbers),
    ];
    if (point.reason) parts.push(element("p", point.reason));
    parts.push(element("h3", "Recipe"),
      element("p", `From ${point.recipe.base.map((base) => base.name).join(", ")}`), steps);
    const files = Object.entries(point.files);
    if (files.length) {
      parts.push(element("h3", `Files in points/${point.id}`), element("ul", "",
        ...files.map(([name, digest]) => element("li", "", element("code", name),
          ` SHA-256 ${digest.slice(0, 12)}…`))));
      parts.push(element("h3", "In Python"),
        element("pre", `Frontier.load(run)[${JSON.stringify(point.id)}].load_model()`));
    }
    detail.replaceChildren(...parts);
    detail.scrollTop = 0;
    draw();
  }

  rows.forEach((row, id) => row.addEventListener("click", () => show(id)));
  document.querySelectorAll("input[name=cost]").forEach((input) =>
    input.addEventListener("change", () => { cost = input.value; draw(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
  chart.on("plotly_click", (event) => {
    const id = event.points[0].customdata;
    if (id) show(id);
  });
  show(chosen);
})();
