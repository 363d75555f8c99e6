// Keeps the pages of background tasks up to date.
//
// Owns when a page is updated, and which elements are replaced. Does not own the content, which the server makes:
// without this script, the page shows the state when it was loaded.

const INTERVAL_MS = 3000;
// The elements that are replaced. The tables and forms around them stay, so that focus and scrolling stay too.
const LIVE = ["rt-notes", "rt-at", "rt-queues", "rt-tasks", "rt-pages", "rt-facts", "rt-contents"];

let isPaused = false;

const element = (id) => document.getElementById(id);

// What somebody is about to use stays as it is: a row with the focus or under the pointer, a selection, selected text.
function isInUse(old) {
  if (old.contains(document.activeElement) || old.querySelector(":checked, tr:hover") !== null) return true;
  const selection = getSelection();
  return selection !== null && !selection.isCollapsed && selection.containsNode(old, true);
}

function address() {
  const url = new URL(location.href);
  url.searchParams.set("format", "part");
  return url;
}

async function refresh() {
  const response = await fetch(address(), { credentials: "same-origin", redirect: "error" });
  // 503: Redis is unavailable, and the answer says so.
  if (!response.ok && response.status !== 503) throw new Error(`status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const parts = LIVE.map((id) => ({ old: element(id), arrived: fresh.getElementById(id) }));
  if (parts.every(({ arrived }) => arrived === null)) throw new Error("not our page");
  if (parts.some(({ old, arrived }) => (old === null) !== (arrived === null))) {
    // Tables come or go: Redis is unavailable or available again.
    element("rt-part").replaceChildren(...fresh.body.childNodes);
    return;
  }
  // What is unchanged stays, so that screen readers do not repeat an alert.
  for (const { old, arrived } of parts) {
    if (old === null || old.isEqualNode(arrived) || isInUse(old)) continue;
    old.replaceWith(arrived);
  }
}

async function run() {
  while (true) {
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
    if (isPaused || document.hidden) continue;
    // A failure, such as a restart of the server, is tried again; the time on the page shows how old the figures are.
    await refresh().catch(() => {});
  }
}

const button = element("rt-pause");
button.hidden = false;
button.addEventListener("click", () => {
  isPaused = !isPaused;
  button.setAttribute("aria-pressed", String(isPaused));
});
run();
