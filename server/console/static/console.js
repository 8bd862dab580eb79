// fednot's console. Copyright the fednot authors, Apache-2.0 (LICENSE). No library, no build step.
"use strict";

(() => {
  const every = 2000;
  const freshness = document.getElementById("freshness");

  // A link brings its code in the fragment, which goes to no server by itself.
  const code = document.getElementById("code");
  if (code && location.hash.length > 1) {
    code.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
    code.form.requestSubmit();
  }

  document.getElementById("refusal")?.focus();

  for (const form of document.querySelectorAll("form[data-once]")) {
    form.addEventListener("submit", () => {
      form.querySelector("button").disabled = true;
    });
  }

  // Fields that do not belong to what is chosen are not shown; without this script all are.
  const kinds = document.querySelectorAll("input[name=kind]");
  const fit = () => {
    const chosen = document.querySelector("input[name=kind]:checked")?.value;
    for (const field of document.querySelectorAll("[data-for]")) {
      field.hidden = !field.dataset.for.split(" ").includes(chosen);
    }
  };
  kinds.forEach((kind) => kind.addEventListener("change", fit));
  if (kinds.length) fit();

  const keyOf = (element) => element && (element.id || element.getAttribute("href") || element.getAttribute("aria-label"));

  const replace = (old, fresh) => {
    // A press that ends on another element than it began on is no click: the next refresh is soon.
    if (old.innerHTML === fresh.innerHTML || old.matches(":active")) return;
    const focused = old.contains(document.activeElement) ? keyOf(document.activeElement) : null;
    const places = [...old.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
    old.replaceChildren(...fresh.childNodes);
    [...old.querySelectorAll(".scroll")].forEach((part, at) => { part.scrollLeft = places[at] || 0; });
    if (focused) {
      [...old.querySelectorAll("a, [tabindex]")].find((each) => keyOf(each) === focused)?.focus({ preventScroll: true });
    }
  };

  const refresh = async () => {
    const old = document.querySelector("[data-live]");
    if (!old) return;
    let again = every;
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, {
          headers: { "X-Fednot-Refresh": "1" },
          signal: AbortSignal.timeout(30000),
        });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById(old.id);
        if (answer.ok && fresh) {
          replace(old, fresh);
          freshness.textContent = "";
        } else if (answer.status === 401) {
          freshness.textContent = "The session has ended; reload to sign in.";
          return;
        } else {
          freshness.textContent = "This page is not fresh: the server refuses just now.";
          again = 5 * every;
        }
      } catch {
        freshness.textContent = "This page is not fresh: the server cannot be reached.";
        again = 5 * every;
      }
    }
    setTimeout(refresh, again);
  };
  setTimeout(refresh, every);
})();
