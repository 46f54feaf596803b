// Keys for every page: "/" searches, arrows walk the rows, "g" and a letter goes to a page, "?" shows the keys.
"use strict";
(() => {
  let going = false;
  const typing = (element) => element.matches("input, textarea, select") || element.isContentEditable;
  const links = () => [...document.querySelectorAll("table.rows a.open")];

  function walk(step) {
    const all = links();
    if (!all.length) return;
    const here = all.indexOf(document.activeElement);
    all[Math.min(Math.max(here + step, 0), all.length - 1)].focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (going) {
      going = false;
      const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (event.key === "/") {
      const search = document.getElementById("search");
      if (search) { event.preventDefault(); search.focus(); search.select(); }
    } else if (event.key === "?") {
      document.getElementById("keys").showModal();
    } else if (event.key === "g") {
      going = true;
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && links().length) {
      event.preventDefault();
      walk(event.key === "ArrowDown" ? 1 : -1);
    }
  });
})();
