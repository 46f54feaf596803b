// Two radiographs on canvases: window and level over 16-bit values, and the model's regions on demand.
"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const control = (id) => document.getElementById(id);
  const regions = JSON.parse(viewer.dataset.regions);
  const names = JSON.parse(viewer.dataset.names);
  const images = [];

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
    const picture = context.createImageData(columns, rows);
    const out = new Uint32Array(picture.data.buffer);
    for (let i = 0; i < values.length; i++) {
      const grey = Math.min(255, Math.max(0, ((values[i] - low) / width) * 255)) | 0;
      out[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    context.putImageData(picture, 0, 0);
    if (control("overlay").checked) overlay(context, canvas, geometry);
  }

  // Regions are in pixels of the stored image; the canvas shows the part that was kept after cropping.
  function overlay(context, canvas, geometry) {
    const x = (column) => ((column - geometry.left) / geometry.width) * canvas.width;
    const y = (row) => ((row - geometry.top) / geometry.height) * canvas.height;
    regions.forEach((list, finding) => (list || []).forEach((region) => {
      if (region.image !== canvas.dataset.role || !region.points.length) return;
      context.beginPath();
      region.points.forEach(([column, row], i) => (i ? context.lineTo(x(column), y(row)) : context.moveTo(x(column), y(row))));
      context.closePath();
      const hue = (finding * 67) % 360;
      context.fillStyle = `hsla(${hue}, 90%, 55%, .22)`; context.fill();
      context.lineWidth = Math.max(2, canvas.width / 350);
      context.strokeStyle = `hsl(${hue}, 90%, 65%)`; context.stroke();
      const [column, row] = region.points[0];
      context.font = `${Math.max(12, canvas.width / 40)}px system-ui`;
      context.fillStyle = context.strokeStyle;
      context.fillText(names[finding], x(column), y(row) - 6);
    }));
  }

  const redraw = () => images.forEach(draw);

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

  function reset() { control("window").value = 100; control("level").value = 50; redraw(); }

  for (const id of ["window", "level", "overlay"]) control(id).addEventListener("input", redraw);
  control("reset").addEventListener("click", reset);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=range]), textarea, select") || event.ctrlKey || event.metaKey) return;
    if (event.key === "o") { control("overlay").checked = !control("overlay").checked; redraw(); }
    if (event.key === "r") reset();
  });
  document.querySelectorAll("canvas[data-image]").forEach((canvas) => { load(canvas); drag(canvas); });
})();
