// Keeps the page fresh: server-sent events say that something changed, then regions are replaced by what the server
// wrote. Without this file the page works too: it is complete as the server wrote it.
import { drawAll } from "./charts.js";

const TICK_MS = 10_000;
const QUIET_MS = 60_000; // with events that say nothing

const state = document.getElementById("freshness");
const follows = document.body.dataset.live !== undefined; // the range ends now
const leastMs = 1000 * Number(document.body.dataset.live || 0); // between two refreshes: longer ranges change less
let last = Date.now();
let busy = false;
let events = null;
const written = new Map(); // each region as the server last wrote it

function regions(root) {
  return [...root.querySelectorAll("[data-region]")];
}

function remember() {
  for (const region of regions(document)) written.set(region.id, region.outerHTML);
}

// A person who types or has opened something must not lose it.
function replace(old, fresh) {
  const open = [...old.querySelectorAll("details[open][id]")].map((each) => each.id);
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  if (focused && focused.matches("input, textarea")) return;
  const back = focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.getAttribute("href") && `a[href="${CSS.escape(focused.getAttribute("href"))}"]`);
  written.set(fresh.id, fresh.outerHTML);
  old.replaceWith(document.adoptNode(fresh));
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (back) fresh.querySelector(back)?.focus({ preventScroll: true });
  drawAll(fresh);
  fill(fresh);
}

async function page(address) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!parsed.getElementById("main")) throw new Error("not a page of ours");
  return parsed;
}

async function refresh() {
  if (busy || document.hidden || !follows) return;
  busy = true;
  try {
    const fresh = await page(location.href);
    const found = regions(fresh);
    const same = found.length === regions(document).length && found.every((each) => document.getElementById(each.id));
    if (!same) {
      document.getElementById("main").replaceWith(document.adoptNode(fresh.getElementById("main")));
      remember();
      drawAll(document);
      fill(document);
    } else {
      for (const region of found) {
        if (written.get(region.id) !== region.outerHTML) replace(document.getElementById(region.id), region);
      }
    }
    state.querySelector("span:last-child").textContent = fresh.getElementById("freshness").textContent.trim();
    state.classList.remove("stale");
    last = Date.now();
  } catch (error) {
    // The figures stay and are marked: an old number must not pass for a new one.
    state.querySelector("span:last-child").textContent = `not refreshed: the service does not answer (${error.message})`;
    state.classList.add("stale");
  } finally {
    busy = false;
  }
}

// Parts that take longer come by themselves; their place holds a link to them until then.
async function fill(root) {
  for (const place of root.querySelectorAll("[data-fill]")) {
    try {
      const found = (await page(place.dataset.fill)).getElementById(place.id);
      place.replaceChildren(...document.adoptNode(found).childNodes);
      drawAll(place);
    } catch {
      // The link stays.
    }
  }
}

function listen() {
  if (document.hidden || !follows) {
    events?.close();
    events = null;
    return;
  }
  if (events && events.readyState !== EventSource.CLOSED) return;
  events = new EventSource("/api/v1/live");
  events.addEventListener("open", () => state.classList.add("live"));
  events.addEventListener("error", () => {
    state.classList.remove("live");
    refresh(); // which finds out whether the service is gone
  });
  events.addEventListener("figures", () => {
    if (Date.now() - last >= leastMs) refresh();
  });
}

remember();
drawAll(document);
fill(document);
if (follows) {
  listen();
  setInterval(() => {
    if (Date.now() - last >= (state.classList.contains("live") ? Math.max(QUIET_MS, leastMs) : leastMs)) refresh();
  }, TICK_MS);
  document.addEventListener("visibilitychange", () => {
    listen();
    refresh();
  });
}
