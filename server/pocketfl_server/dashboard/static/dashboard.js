// Fetches what changes and puts it in place; a page that cannot be renewed says so, and how old it is.
"use strict";
(() => {
  const state = document.getElementById("state");
  const live = document.getElementById("live");
  const every = Number(state.dataset.every) * 1000;
  let renewed = Date.now();

  const say = (text, late) => {
    if (state.textContent !== text) state.textContent = text;
    state.classList.toggle("late", late);
  };

  const renew = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(state.dataset.from, { cache: "no-store", redirect: "error" });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      const made = new DOMParser().parseFromString(text, "text/html").querySelector("main");
      if (made === null) throw new Error("no page");
      const scrolled = [window.scrollX, window.scrollY];
      live.replaceChildren(document.importNode(made, true));
      window.scrollTo(...scrolled);
      renewed = Date.now();
      say("live", false);
    } catch (error) {
      say(`not renewed for ${Math.round((Date.now() - renewed) / 1000)} s: the back end does not answer`, true);
    }
  };

  setInterval(renew, every);
  document.addEventListener("visibilitychange", renew);
})();
