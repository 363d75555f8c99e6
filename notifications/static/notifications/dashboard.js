/**
 * Keeps the dashboard of the admin up to date.
 *
 * Owns when its figures are read again, and the words for that. Does not own their content, which the server makes:
 * without this script, the page keeps the figures that it was loaded with. Does not own the connection (connection.js).
 */

import { hold } from "./connection.js";
import { morph } from "./morph.js";

/** After a message on the topic, the figures are read again, but not more often than this. */
const LIVE_MS = 3_000;
/** Without messages they are read this often: the connection is lost, or no relay is running. */
const POLL_MS = 10_000;
/** The pause is at least as long as reading took, multiplied by this: many open dashboards do not slow down a server. */
const PAUSE_FACTOR = 4;
/** A server that has not answered after this time is asked again. */
const ANSWER_MS = 30_000;

const root = document.getElementById("sb-dashboard");
const part = document.getElementById("sb-part");
const state = document.getElementById("sb-live");
const pause = document.getElementById("sb-pause");

let isPaused = false;
let isReading = false;
/** Whether a message has come since the figures were read. */
let isStale = false;
let hasFailed = false;
let messageAt = -Infinity;
let readAt = performance.now();
/** How long it took to read the figures. */
let tookMs = 0;
let timer = null;

function plan() {
  clearTimeout(timer);
  if (isPaused || isReading || document.hidden) return;
  const pauseMs = Math.max(isStale ? LIVE_MS : POLL_MS, PAUSE_FACTOR * tookMs);
  timer = setTimeout(read, Math.max(0, readAt + pauseMs - performance.now()));
}

async function read() {
  isReading = true;
  isStale = false;
  const beganAt = performance.now();
  try {
    morph(part, await fetchPart());
    hasFailed = false;
  } catch {
    // For example, the server restarts. The time on the page shows how old the figures are.
    hasFailed = true;
  }
  isReading = false;
  readAt = performance.now();
  tookMs = hasFailed ? 0 : readAt - beganAt;
  showState();
  plan();
}

async function fetchPart() {
  const url = new URL(root.dataset.url, location.href);
  url.searchParams.set("format", "part");
  url.searchParams.set("period", root.dataset.period);
  const response = await fetch(url, {
    credentials: "same-origin",
    redirect: "error",
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  if (fresh.getElementById("sb-at") === null) throw new Error("not our page");
  return document.adoptNode(fresh.body);
}

/** Shows how the page is kept up to date. Screen readers announce it when it changes. */
function showState() {
  const isLive = performance.now() - messageAt < POLL_MS;
  const text = isPaused
    ? "Paused"
    : hasFailed
      ? "The server does not answer: trying again"
      : isLive
        ? "Live"
        : `Every ${POLL_MS / 1_000} seconds`;
  if (state.textContent !== text) state.textContent = text;
}

/** Shows the live numbers until the figures are read again. */
function showNumbers(numbers) {
  for (const [name, number] of Object.entries(numbers)) {
    const text = typeof number === "number" ? number.toLocaleString("en") : "unknown";
    for (const element of part.querySelectorAll(`[data-live="${CSS.escape(name)}"]`)) {
      if (element.textContent !== text) element.textContent = text;
    }
  }
}

function receive({ data }) {
  messageAt = performance.now();
  isStale = true;
  if (!isPaused && !document.hidden) showNumbers(data);
  showState();
  plan();
}

pause.hidden = false;
pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.textContent = isPaused ? "Resume" : "Pause";
  showState();
  plan();
});
document.addEventListener("visibilitychange", plan);

try {
  const connection = hold({ user: root.dataset.user, url: root.dataset.websocketUrl });
  const subscription = connection.subscribe(root.dataset.topic);
  subscription.on("message", receive);
  // The figures are read every few seconds anyway.
  subscription.on("error", () => {});
  connection.on("error", () => {});
} catch {
  // The URL of the WebSocket is unusable. The page reads its figures every few seconds all the same.
}
showState();
plan();
