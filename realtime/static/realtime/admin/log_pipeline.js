// Keeps the page "Log pipeline" up to date, and draws how many records a second are appended, and finished by the sink
// that is furthest behind.
//
// Owns when the page is updated, and which elements are replaced. Does not own the content, which the server makes:
// without this script, the page shows the state when it was loaded.

const INTERVAL_MS = 2000;
const WINDOW_MS = 120_000;
const WIDTH = 600;
const HEIGHT = 120;
// The elements that are replaced. The tables around them stay, so that focus and scrolling stay too.
const LIVE = ["rt-notes", "rt-at", "rt-sinks", "rt-latest"];

const samples = [];
let isPaused = false;

const element = (id) => document.getElementById(id);
const shown = (rate) => (rate >= 100 ? Math.round(rate).toLocaleString() : rate.toFixed(1));

function take() {
  const sinks = element("rt-sinks");
  if (sinks === null || sinks.dataset.added === undefined) return;
  const rows = [...sinks.querySelectorAll("[data-finished]")].map(({ dataset }) => ({
    key: `${dataset.stream} ${dataset.sink}`,
    name: dataset.sink,
    finished: Number(dataset.finished),
    unfinished: Number(dataset.unfinished),
  }));
  samples.push({ at: performance.now(), added: Number(sinks.dataset.added), rows });
  while (samples[0].at < performance.now() - WINDOW_MS) samples.shift();
}

// The sink with the most unfinished records; undefined if Redis does not know how many there are.
function slowest() {
  return samples.at(-1)?.rows.reduce((worst, row) => (row.unfinished > worst.unfinished ? row : worst), samples.at(-1).rows[0]);
}

// `count` takes the number from a sample.
function rates(count) {
  return samples.slice(1).map((sample, index) => {
    const before = samples[index];
    // Below 0 if Redis has lost its counts.
    const rate = Math.max(0, ((count(sample) - count(before)) * 1000) / (sample.at - before.at));
    return { at: sample.at, rate };
  });
}

function draw() {
  const sink = slowest();
  if (samples.length < 2 || sink === undefined) return;
  const finished = (sample) => sample.rows.find((row) => row.key === sink.key)?.finished ?? 0;
  const lines = { added: rates((sample) => sample.added), finished: rates(finished) };
  const highest = Math.max(...Object.values(lines).flatMap((line) => line.map((each) => each.rate)));
  const top = Math.max(1, highest);
  const now = samples.at(-1).at;
  for (const [name, line] of Object.entries(lines)) {
    const points = line.map(({ at, rate }) => {
      const x = WIDTH * (1 - (now - at) / WINDOW_MS);
      return `${x.toFixed(1)},${(HEIGHT - 2 - (rate / top) * (HEIGHT - 4)).toFixed(1)}`;
    });
    element(`rt-line-${name}`).setAttribute("points", points.join(" "));
    element(`rt-rate-${name}`).textContent = shown(line.at(-1).rate);
  }
  element("rt-slowest").textContent = sink.name;
  element("rt-rate-top").textContent = shown(top);
  element("rt-top").hidden = highest === 0;
  element("rt-rate").hidden = false;
}

async function refresh() {
  const response = await fetch("?format=part", { credentials: "same-origin", redirect: "error" });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const parts = LIVE.map((id) => ({ old: element(id), arrived: fresh.getElementById(id) }));
  if (parts.some(({ old, arrived }) => (old === null) !== (arrived === null))) {
    // Tables come or go: sinks are declared, or Redis is unavailable or available again.
    element("rt-part").replaceChildren(...fresh.body.childNodes);
  } else {
    // What is unchanged stays, so that screen readers do not repeat an alert.
    for (const { old, arrived } of parts) if (old !== null && !old.isEqualNode(arrived)) old.replaceWith(arrived);
  }
  take();
  draw();
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
take();
run();
