// Two radiographs on canvases: window, level and inversion over 16-bit values, and on demand what the model points at:
// outlines of its regions, or the same as a heat map, whose soft edges are drawing, not measurement.
"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const control = (id) => document.getElementById(id);
  const regions = JSON.parse(viewer.dataset.regions);
  const names = JSON.parse(viewer.dataset.names);
  const images = [];
  const hidden = new Set();  // findings that the legend has switched off
  const HUES = [0, 200, 45, 280, 140, 320, 90, 230, 20, 170];
  const hue = (finding) => HUES[finding % HUES.length];

  async function load(canvas) {
    const answer = await fetch(`/images/${canvas.dataset.image}/pixels`);
    if (!answer.ok) { say(canvas, "The image cannot be shown."); return; }
    const values = new Uint16Array(await answer.arrayBuffer());
    const columns = Number(answer.headers.get("X-Columns")), rows = Number(answer.headers.get("X-Rows"));
    canvas.width = columns; canvas.height = rows;
    const image = { canvas, values, rows, columns, geometry: JSON.parse(answer.headers.get("X-Geometry")) };
    images.push(image);
    draw(image);
    canvas.dataset.ready = "1";
  }

  function say(canvas, text) {
    const note = document.createElement("p");
    note.className = "empty"; note.textContent = text;
    canvas.replaceWith(note);
  }

  function draw({ canvas, values, rows, columns, geometry }) {
    const context = canvas.getContext("2d");
    const width = Math.max(control("window").value / 100, 0.02) * 65535;
    const low = (control("level").value / 100) * 65535 - width / 2;
    const inverted = control("invert").checked ? 255 : 0;
    const picture = context.createImageData(columns, rows);
    const out = new Uint32Array(picture.data.buffer);
    for (let i = 0; i < values.length; i++) {
      const grey = Math.min(255, Math.max(0, ((values[i] - low) / width) * 255)) ^ inverted;
      out[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    context.putImageData(picture, 0, 0);
    if (control("heat").checked) heat(context, canvas, geometry);
    if (control("overlay").checked) overlay(context, canvas, geometry);
  }

  // Regions are in pixels of the stored image; the canvas shows the part that was kept after cropping.
  function trace(context, canvas, geometry, points) {
    const x = (column) => ((column - geometry.left) / geometry.width) * canvas.width;
    const y = (row) => ((row - geometry.top) / geometry.height) * canvas.height;
    context.beginPath();
    points.forEach(([column, row], i) => (i ? context.lineTo(x(column), y(row)) : context.moveTo(x(column), y(row))));
    context.closePath();
    return [x(points[0][0]), y(points[0][1])];
  }

  function each(canvas, act) {
    regions.forEach((list, finding) => (list || []).forEach((region) => {
      if (region.image === canvas.dataset.role && region.points.length && !hidden.has(finding)) act(region.points, finding);
    }));
  }

  function overlay(context, canvas, geometry) {
    // Letters of 14 points on the screen, whatever the image's own size is.
    const unit = canvas.width / Math.max(canvas.clientWidth, 1);
    const size = 14 * unit;
    each(canvas, (points, finding) => {
      const [x, y] = trace(context, canvas, geometry, points);
      if (!control("heat").checked) { context.fillStyle = `hsla(${hue(finding)}, 90%, 55%, .15)`; context.fill(); }
      context.lineWidth = 2 * unit;
      context.strokeStyle = `hsl(${hue(finding)}, 95%, 65%)`; context.stroke();
      context.font = `600 ${size}px system-ui, sans-serif`;
      const width = context.measureText(names[finding]).width + size / 2;
      const left = Math.min(Math.max(x, 0), canvas.width - width), top = Math.max(y - 1.5 * size, 0);
      context.fillStyle = "rgba(0, 0, 0, .7)"; context.fillRect(left, top, width, 1.4 * size);
      context.fillStyle = context.strokeStyle; context.fillText(names[finding], left + size / 4, top + 1.05 * size);
    });
  }

  function heat(context, canvas, geometry) {
    const layer = document.createElement("canvas");
    layer.width = canvas.width; layer.height = canvas.height;
    const paint = layer.getContext("2d");
    paint.filter = `blur(${Math.round(canvas.width / 40)}px)`;
    paint.fillStyle = "rgba(255, 255, 255, .8)";
    each(canvas, (points) => { trace(paint, canvas, geometry, points); paint.fill(); });
    const picture = paint.getImageData(0, 0, layer.width, layer.height);
    const data = picture.data;
    for (let i = 0; i < data.length; i += 4) {
      const warmth = data[i + 3] / 255;  // none → blue → yellow → red
      data[i] = 255 * Math.min(1, 2 * warmth); data[i + 1] = 255 * Math.min(1, 2.2 - 2.2 * warmth);
      data[i + 2] = 255 * Math.max(0, .6 - 1.5 * warmth); data[i + 3] = 120 * warmth;
    }
    paint.filter = "none"; paint.putImageData(picture, 0, 0);
    context.drawImage(layer, 0, 0);
  }

  // One button for each finding that has a region: its colour, and a way to switch it off.
  function buildLegend() {
    const legend = control("legend");
    regions.forEach((list, finding) => {
      if (!(list || []).length) return;
      const button = document.createElement("button");
      button.type = "button"; button.className = "quiet chip"; button.textContent = names[finding];
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        if (!hidden.delete(finding)) hidden.add(finding);
        button.setAttribute("aria-pressed", String(!hidden.has(finding)));
        redraw();
      });
      const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      swatch.setAttribute("viewBox", "0 0 10 10");
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      for (const [name, value] of [["cx", 5], ["cy", 5], ["r", 5], ["fill", `hsl(${hue(finding)}, 95%, 65%)`]]) dot.setAttribute(name, value);
      swatch.append(dot); button.prepend(swatch); legend.append(button);
    });
  }

  function redraw() {
    control("window-value").textContent = `${Math.round(control("window").value)} %`;
    control("level-value").textContent = `${Math.round(control("level").value)} %`;
    control("legend").hidden = !(control("overlay").checked || control("heat").checked);
    images.forEach(draw);
  }

  function drag(canvas) {
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, window: Number(control("window").value), level: Number(control("level").value) };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      control("window").value = from.window + (event.clientX - from.x) / 3;
      control("level").value = from.level + (event.clientY - from.y) / 6;
      redraw();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: ["window", 5], ArrowLeft: ["window", -5], ArrowUp: ["level", 2], ArrowDown: ["level", -2] }[event.key];
      if (!step) return;
      event.preventDefault(); event.stopPropagation();
      control(step[0]).value = Number(control(step[0]).value) + step[1];
      redraw();
    });
  }

  function reset() { control("window").value = 100; control("level").value = 50; control("invert").checked = false; redraw(); }

  for (const id of ["window", "level", "overlay", "heat", "invert"]) control(id).addEventListener("input", redraw);
  control("reset").addEventListener("click", reset);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=range]), textarea, select") || event.ctrlKey || event.metaKey) return;
    const box = { o: "overlay", h: "heat", i: "invert" }[event.key];
    if (box) { control(box).checked = !control(box).checked; redraw(); }
    if (event.key === "r") reset();
  });
  buildLegend();
  window.addEventListener("resize", redraw);
  document.querySelectorAll("canvas[data-image]").forEach((canvas) => { load(canvas); drag(canvas); });
})();
