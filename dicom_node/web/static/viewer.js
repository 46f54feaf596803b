// Two radiographs on canvases: window, level and inversion over 16-bit values, zoom and pan of both together, and on
// demand what the model points at: outlines of its regions, or the same as a heat map, whose soft edges are drawing, not
// measurement. Colour is the finding, the line's style the change, as in the report's picture.
"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const control = (id) => document.getElementById(id);
  const regions = JSON.parse(viewer.dataset.regions);
  const marks = JSON.parse(viewer.dataset.marks);
  const images = [];
  const hidden = new Set();  // findings that the legend has switched off
  const MAX_ZOOM = 8;
  const view = { scale: 1, x: 0, y: 0 };  // x, y: the shift in shares of the shown size

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
    const xs = points.map(([column]) => x(column)), ys = points.map(([, row]) => y(row));
    return { left: Math.min(...xs), top: Math.min(...ys), right: Math.max(...xs), bottom: Math.max(...ys) };
  }

  function each(canvas, act) {
    regions.forEach((list, finding) => (list || []).forEach((region) => {
      if (region.image === canvas.dataset.role && region.points.length && !hidden.has(finding)) act(region.points, finding);
    }));
  }

  function overlay(context, canvas, geometry) {
    // Letters of 14 points on the screen, whatever the image's own size and the zoom are.
    const unit = canvas.width / Math.max(canvas.clientWidth, 1) / view.scale;
    const size = 14 * unit, labels = new Map();
    each(canvas, (points, finding) => {
      const { colour, width, dashes } = marks[finding];
      const box = trace(context, canvas, geometry, points);
      if (!control("heat").checked) { context.fillStyle = `${colour}26`; context.fill(); }
      context.setLineDash(dashes.map((length) => length * unit));
      context.lineWidth = (width / 2 + 2) * unit; context.strokeStyle = "#000"; context.stroke();
      context.lineWidth = Math.max(width / 2, 1) * unit; context.strokeStyle = colour; context.stroke();
      if (!labels.has(finding)) labels.set(finding, box);
    });
    context.setLineDash([]);
    context.font = `600 ${size}px system-ui, sans-serif`;
    const placed = [];
    for (const [finding, box] of labels) {
      const { colour } = marks[finding], height = 1.4 * size;
      const name = canvas.dataset.role === "prior" ? marks[finding].prior : marks[finding].name;
      const width = Math.min(context.measureText(name).width + size / 2, canvas.width);
      const corner = place(box, width, height, canvas, placed);
      if (!corner) continue;  // the legend names it
      placed.push({ ...corner, width, height });
      context.fillStyle = "rgba(0, 0, 0, .75)"; context.fillRect(corner.x, corner.y, width, height);
      context.fillStyle = colour; context.fillText(name, corner.x + size / 4, corner.y + 1.05 * size, width - size / 2);
    }
  }

  // The nearest place beside the region that is inside the image and over no other label: see report/render/marks.py.
  function place(box, width, height, canvas, placed) {
    const rows = [...Array(Math.floor(canvas.height / height)).keys()].map((row) => row * height);
    rows.sort((a, b) => Math.abs(a - box.top) - Math.abs(b - box.top));
    const places = [
      [box.left, box.top - height], [box.left, box.bottom], [box.right - width, box.top - height],
      [box.right - width, box.bottom], [box.left, box.top], ...rows.map((top) => [box.left, top]),
    ];
    for (const [left, top] of places) {
      const x = Math.max(Math.min(left, canvas.width - width), 0), y = Math.max(Math.min(top, canvas.height - height), 0);
      const isFree = (one) => x + width <= one.x || one.x + one.width <= x || y + height <= one.y || one.y + one.height <= y;
      if (placed.every(isFree)) return { x, y };
    }
    return null;
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
      button.type = "button"; button.className = "quiet chip"; button.textContent = marks[finding].name;
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        if (!hidden.delete(finding)) hidden.add(finding);
        button.setAttribute("aria-pressed", String(!hidden.has(finding)));
        redraw();
      });
      const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      sample.setAttribute("viewBox", "0 0 40 10");
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const { colour, width, dashes } = marks[finding];
      const look = { x1: 0, y1: 5, x2: 40, y2: 5, stroke: colour, "stroke-width": width, "stroke-dasharray": dashes.join(" ") };
      for (const [name, value] of Object.entries(look)) line.setAttribute(name, value);
      sample.append(line); button.prepend(sample); legend.append(button);
    });
  }

  function redraw() {
    control("window-value").textContent = `${Math.round(control("window").value)} %`;
    control("level-value").textContent = `${Math.round(control("level").value)} %`;
    control("legend").hidden = !(control("overlay").checked || control("heat").checked);
    images.forEach(draw);
  }

  // Both films move together, so that the same place of the chest stays in sight.
  function move(changes) {
    Object.assign(view, changes);
    const least = 1 / view.scale - 1;
    view.x = Math.min(Math.max(view.x, least), 0); view.y = Math.min(Math.max(view.y, least), 0);
    const transform = `scale(${view.scale}) translate(${100 * view.x}%, ${100 * view.y}%)`;
    for (const canvas of document.querySelectorAll(".film canvas")) canvas.style.transform = view.scale === 1 ? "" : transform;
    control("zoom-value").textContent = `${Math.round(100 * view.scale)} %`;
    if (control("overlay").checked) images.forEach(draw);
  }

  // at: the point that stays where it is, in shares of the film.
  function zoom(factor, at = { x: .5, y: .5 }) {
    const scale = Math.min(Math.max(view.scale * factor, 1), MAX_ZOOM);
    move({ scale, x: view.x + at.x / scale - at.x / view.scale, y: view.y + at.y / scale - at.y / view.scale });
  }

  const isPanning = (event) => control("pan").getAttribute("aria-pressed") === "true" || event.shiftKey || event.button === 1;

  function drag(canvas) {
    const film = canvas.parentElement;
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = {
        pans: isPanning(event), left: event.clientX, top: event.clientY, x: view.x, y: view.y,
        window: Number(control("window").value), level: Number(control("level").value),
      };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const dx = event.clientX - from.left, dy = event.clientY - from.top;
      if (from.pans) {
        move({ x: from.x + dx / canvas.clientWidth / view.scale, y: from.y + dy / canvas.clientHeight / view.scale });
        return;
      }
      control("window").value = from.window + dx / 3;
      control("level").value = from.level + dy / 6;
      redraw();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
    film.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !isPanning(event)) return;  // the page scrolls
      event.preventDefault();
      const box = film.getBoundingClientRect();
      zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: ["window", 5], ArrowLeft: ["window", -5], ArrowUp: ["level", 2], ArrowDown: ["level", -2] }[event.key];
      if (!step) return;
      event.preventDefault(); event.stopPropagation();
      if (isPanning(event)) {
        const by = -Math.sign(step[1]) * .05;
        move(step[0] === "window" ? { x: view.x + by } : { y: view.y - by });
        return;
      }
      control(step[0]).value = Number(control(step[0]).value) + step[1];
      redraw();
    });
  }

  function reset() {
    control("window").value = 100; control("level").value = 50; control("invert").checked = false;
    move({ scale: 1, x: 0, y: 0 });
    redraw();
  }

  for (const id of ["window", "level", "overlay", "heat", "invert"]) control(id).addEventListener("input", redraw);
  control("reset").addEventListener("click", reset);
  control("zoom-in").addEventListener("click", () => zoom(1.5));
  control("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  control("pan").addEventListener("click", () => {
    control("pan").setAttribute("aria-pressed", String(control("pan").getAttribute("aria-pressed") !== "true"));
  });
  for (const preset of viewer.querySelectorAll("button[data-window]")) preset.addEventListener("click", () => {
    control("window").value = preset.dataset.window; control("level").value = preset.dataset.level;
    redraw();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=range]), textarea, select") || event.ctrlKey || event.metaKey) return;
    const box = { o: "overlay", h: "heat", i: "invert" }[event.key];
    if (box) { control(box).checked = !control(box).checked; redraw(); }
    if (event.key === "r") reset();
    if (event.key === "+") zoom(1.5);
    if (event.key === "-") zoom(1 / 1.5);
  });
  buildLegend();
  window.addEventListener("resize", redraw);
  document.querySelectorAll("canvas[data-image]").forEach((canvas) => { load(canvas); drag(canvas); });
})();
