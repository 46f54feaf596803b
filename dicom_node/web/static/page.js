// Every page: the menu of small screens, parts that keep themselves up to date, and keys: "/" searches, arrows walk the
// rows, "g" and a letter goes to a page, "q" goes to the question box, "?" shows the keys.
"use strict";
(() => {
  const REFRESH_MS = 10000;
  const typing = (element) => element.matches("input, textarea, select") || element.isContentEditable;
  const links = () => [...document.querySelectorAll("table.rows a.open")];
  let going = false;

  document.documentElement.classList.add("scripted");
  const menu = document.getElementById("menu");
  if (menu) menu.addEventListener("click", () => {
    const open = document.getElementById("main-menu").classList.toggle("open");
    menu.setAttribute("aria-expanded", String(open));
  });

  function walk(step) {
    const all = links();
    if (!all.length) return;
    const here = all.indexOf(document.activeElement);
    all[Math.min(Math.max(here + step, 0), all.length - 1)].focus();
  }

  // What changes by itself is asked for again and put in place; scroll position, forms and focus stay as they are.
  const isBusy = (part) => part.contains(document.activeElement) && typing(document.activeElement);

  async function refresh() {
    const parts = [...document.querySelectorAll("[data-live]")];
    if (!parts.length || document.hidden || parts.some(isBusy)) return;
    let text;
    try {
      const answer = await fetch(location.href, { headers: { "X-Refresh": "1" }, redirect: "manual" });
      if (!answer.ok) return;
      text = await answer.text();
    } catch { return; }  // the node is away; the page stays as it is and asks again
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of parts) {
      const other = fresh.querySelector(`[data-live="${CSS.escape(part.dataset.live)}"]`);
      if (!other || isBusy(part) || other.innerHTML === part.innerHTML) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      part.replaceChildren(...other.childNodes);
      if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    }
  }
  setInterval(refresh, REFRESH_MS);
  document.addEventListener("visibilitychange", refresh);

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
    } else if (event.key === "q") {
      const question = document.getElementById("question");
      if (question) { event.preventDefault(); question.focus(); question.scrollIntoView({ block: "center" }); }
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
