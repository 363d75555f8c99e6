/**
 * Keeps the dashboard of the admin up to date.
 *
 * Owns when its figures are read again, the words for that, and which notices are announced. Does not own their content,
 * which the server makes: without this script, the page keeps the figures that it was loaded with. Does not own the
 * connection (connection.js).
 */

import { hold } from "./connection.js";
import { morph } from "./morph.js";

/** After a message on the topic, the figures are read again, but not more often than this. */
const LIVE_MS = 3_000;
/** Without messages they are read this often: the connection is lost, or no relay is running. */
const POLL_MS = 10_000;
/** The pause is at least as long as reading took, multiplied by this: many open dashboards do not slow down a server. */
const PAUSE_FACTOR = 4;
/** But that part of the pause is at most so long that a server that has recovered is noticed soon. */
const PAUSE_LIMIT_MS = 60_000;
/** An answer that takes longer counts as a failure. */
const ANSWER_MS = 30_000;

const root = document.getElementById("sb-dashboard");
const part = document.getElementById("sb-part");
const state = document.getElementById("sb-live");
const announced = document.getElementById("sb-announced");
const pause = document.getElementById("sb-pause");

let isPaused = false;
let isReading = false;
/** Whether a message has come since the figures were read. */
let isStale = false;
/** Why the figures could not be read the last time; "" if they were. */
let problem = "";
let messageAt = -Infinity;
let readAt = performance.now();
/** How long the last attempt to read the figures took, whether or not it succeeded. */
let tookMs = 0;
let timer = null;

/** The server sends the reader to the login page. */
class SignedOut extends Error {}

function plan() {
  clearTimeout(timer);
  if (isPaused || isReading || document.hidden) return;
  const pauseMs = Math.max(isStale ? LIVE_MS : POLL_MS, Math.min(PAUSE_FACTOR * tookMs, PAUSE_LIMIT_MS));
  timer = setTimeout(read, Math.max(0, readAt + pauseMs - performance.now()));
}

async function read() {
  isReading = true;
  isStale = false;
  const beganAt = performance.now();
  try {
    const fresh = await fetchPart();
    // A page that was paused meanwhile stands still.
    if (isPaused) isStale = true;
    else show(fresh);
    problem = "";
  } catch (error) {
    // For example, the server restarts. The time on the page shows how old the figures are.
    problem =
      error instanceof SignedOut ? "Signed out: reload the page" : "The figures could not be read: trying again";
  }
  isReading = false;
  readAt = performance.now();
  tookMs = readAt - beganAt;
  showState();
  plan();
}

async function fetchPart() {
  const url = new URL(root.dataset.url, location.href);
  url.searchParams.set("format", "part");
  url.searchParams.set("period", root.dataset.period);
  const response = await fetch(url, {
    credentials: "same-origin",
    redirect: "manual",
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (response.type === "opaqueredirect") throw new SignedOut();
  if (!response.ok) throw new Error(`status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  if (fresh.getElementById("sb-at") === null) throw new Error("not our page");
  return document.adoptNode(fresh.body);
}

/** Shows the figures. Screen readers announce each urgent notice once, and not again when a number in it changes. */
function show(fresh) {
  const known = new Set(urgentNotices().map((notice) => notice.dataset.key));
  morph(part, fresh);
  const texts = urgentNotices().filter((notice) => !known.has(notice.dataset.key)).map((notice) => notice.textContent);
  announced.textContent = texts.join(" ").replace(/\s+/g, " ").trim();
}

function urgentNotices() {
  return [...part.querySelectorAll("#sb-notices [data-urgent]")];
}

/** Shows how the page is kept up to date. Screen readers announce it when it changes. */
function showState() {
  const isLive = performance.now() - messageAt < POLL_MS;
  const text = isPaused
    ? "Paused"
    : problem || (isLive ? "Live" : `Every ${POLL_MS / 1_000} seconds`);
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
