/**
 * What the page says about the vehicles in view: counts, rates, ages, and one vehicle that was clicked.
 *
 * Owns the texts beside and on the map. Does not own the vehicles.
 */

const REFRESH_MS = 500;
/** The rates are of this time. */
const WINDOW_MS = 4_000;
/** A screen reader gets a new sentence at most this often. */
const SUMMARY_MS = 15_000;
const STATES = { open: "live", connecting: "connecting…", waiting: "waiting to reconnect…", closed: "closed" };
const NAMES = {
  rail: ["train", "trains"],
  ferry: ["ferry", "ferries"],
  metro: ["metro", "metros"],
  tram: ["tram", "trams"],
  bus: ["bus", "buses"],
};

const numbers = new Intl.NumberFormat("en");

export class Figures {
  #root;
  #bytes;
  #map;
  #live;
  #connection;
  /** What was measured at each refresh within the window: {at, bytes, updates}. */
  #samples = [];
  #updates = 0;
  /** When the newest position was published, by the clock of its publisher. */
  #newestAt = 0;
  #isAnswered = false;
  #isMeasured = false;
  #selected = null;
  #summary = { text: "", at: -SUMMARY_MS };
  #problem = "";

  /** @param {HTMLElement} root @param {() => number} bytes How many have been received. */
  constructor(root, bytes) {
    this.#root = root;
    this.#bytes = bytes;
  }

  start({ map, live, connection }) {
    this.#map = map;
    this.#live = live;
    this.#connection = connection;
    connection.on("state", () => this.refresh());
    setInterval(() => document.hidden || this.refresh(), REFRESH_MS);
    this.refresh();
  }

  /** New positions have arrived. */
  changed(items) {
    this.#updates += items.length;
    for (const { data } of items) if (data.at > this.#newestAt) this.#newestAt = data.at;
  }

  /** The server has answered the subscription, or a new filter. */
  answered() {
    this.#isAnswered = true;
    this.#problem = "";
  }

  /** A frame was drawn. The first after the first answer is the first picture. */
  drawn() {
    if (this.#isMeasured || !this.#isAnswered || this.#live.items.size === 0) return;
    this.#isMeasured = true;
    const { items } = this.#live;
    const { duration } = performance.measure("vehicles:first-picture", {
      start: "vehicles:subscribe",
      // The topic and the key of each vehicle, for benchmarks/map/first_picture.py.
      detail: { names: [...items.keys()] },
    });
    this.#show("first", `${numbers.format(items.size)} in ${Math.round(duration)} ms`);
  }

  /** The map has another view, or the legend another choice. */
  moved() {
    this.refresh();
  }

  say(problem) {
    this.#problem = problem;
    this.refresh();
  }

  /** @param {import("./vehicles.js").Dot | null} dot */
  select(dot) {
    this.#selected = dot && `${dot.item.topic} ${dot.item.key}`;
    this.refresh();
  }

  refresh() {
    if (!this.#map) return;
    const { items } = this.#live;
    const counts = { rail: 0, ferry: 0, metro: 0, tram: 0, bus: 0 };
    for (const { data } of items.values()) counts[data.mode] += 1;
    for (const [mode, count] of Object.entries(counts)) {
      this.#root.querySelector(`[data-mode=${mode}] [data-count]`).textContent = numbers.format(count);
    }
    const zoom = this.#map.getZoom();
    for (const note of this.#root.querySelectorAll("[data-from-zoom]")) note.hidden = zoom >= note.dataset.fromZoom;
    this.#show("state", STATES[this.#connection.state]);
    this.#show("zoom", numbers.format(zoom));
    this.#show("count", numbers.format(items.size));
    this.#showRates();
    this.#showEmpty(items.size);
    this.#showSelected();
    this.#summarise(counts, items.size);
  }

  #showRates() {
    const now = performance.now();
    this.#samples.push({ at: now, bytes: this.#bytes(), updates: this.#updates });
    while (this.#samples.length > 2 && this.#samples[0].at < now - WINDOW_MS) this.#samples.shift();
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    const seconds = Math.max((last.at - first.at) / 1000, REFRESH_MS / 1000);
    this.#show("updates", `${numbers.format(Math.round((last.updates - first.updates) / seconds))}/s`);
    this.#show("bytes", `${numbers.format(Math.round((last.bytes - first.bytes) / seconds / 102.4) / 10)} KiB/s`);
    const age = (Date.now() - this.#newestAt) / 1000;
    this.#show("age", this.#newestAt === 0 ? "–" : `${age < 10 ? Math.max(0, age).toFixed(1) : Math.round(age)} s ago`);
  }

  #showEmpty(count) {
    const empty = this.#root.querySelector("[data-empty]");
    const isOpen = this.#connection.state === "open";
    const text = count > 0 || !isOpen || !this.#isAnswered ? "" : "No vehicles here now. Is the simulation running?";
    empty.textContent = this.#problem || text;
    empty.hidden = empty.textContent === "";
  }

  #showSelected() {
    const card = this.#root.querySelector("[data-card]");
    const item = this.#selected && this.#live.items.get(this.#selected);
    card.hidden = !item;
    if (!item) return;
    const { mode, line, to, speed, delay } = item.data;
    const title = document.createElement("strong");
    title.textContent = `${nameOf(mode, 1)} ${line} to ${to}`;
    const punctual = delay < 60 ? "on time" : `${Math.floor(delay / 60)} min late`;
    const what = `${speed ? `${speed} km/h` : "at a stop"}, ${punctual}`;
    const key = document.createElement("code");
    key.textContent = `${item.topic} ${item.key}`;
    card.replaceChildren(title, what, document.createElement("br"), key);
  }

  #summarise(counts, total) {
    if (!this.#isAnswered) return;
    const parts = Object.entries(counts).filter(([, count]) => count > 0);
    const list = parts.map(([mode, count]) => `${numbers.format(count)} ${nameOf(mode, count)}`).join(", ");
    const text = total > 0 ? `In view: ${list}.` : "No vehicles in view.";
    const now = performance.now();
    if (text === this.#summary.text || now - this.#summary.at < SUMMARY_MS) return;
    this.#summary = { text, at: now };
    this.#root.querySelector("[data-summary]").textContent = text;
  }

  #show(name, text) {
    this.#root.querySelector(`[data-figure=${name}]`).textContent = text;
  }
}

const nameOf = (mode, count) => NAMES[mode][count === 1 ? 0 : 1];
