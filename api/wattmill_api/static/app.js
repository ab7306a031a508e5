// Refreshes the page in place. Without it the page works too: it is complete as the server wrote it.
"use strict";

const EVERY_MS = 10_000;
const live = document.getElementById("live");
const freshness = document.getElementById("freshness");

async function refresh() {
  // Nobody is looking, or somebody is typing a key.
  if (document.hidden || live.querySelector("form")) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (!fresh) throw new Error("not a page of ours");
    live.replaceChildren(...document.adoptNode(fresh).childNodes);
    freshness.textContent = page.getElementById("freshness").textContent;
    freshness.classList.remove("stale");
  } catch (error) {
    // The figures stay and are marked: an old number must not pass for a new one.
    freshness.textContent = `not refreshed: the service does not answer (${error.message})`;
    freshness.classList.add("stale");
  }
}

setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
