/**
 * The live map of the demo: what a project's own page would do with a live topic.
 *
 * Owns the map and its subscription. Does not own drawing (vehicles.js, world.js), the figures (figures.js) nor the
 * switch of the simulation (switch.js).
 *
 * The part to look at is `subscribe`: one subscription to a family of topics, with a filter that follows the map.
 */

import { connect } from "../../realtime/client.js";
import { Figures } from "./figures.js";
import { Map as LeafletMap } from "./leaflet/leaflet.js";
import { Switch } from "./switch.js";
import { VehicleLayer } from "./vehicles.js";
import { loadWorld, WorldLayer } from "./world.js";

const START = { center: [30, 12], zoom: 2 };
const LATE_SECONDS = 120;

const root = document.querySelector("[data-live-map]");
const legend = root.querySelector("[data-legend]");
const received = { bytes: 0 };

/** Counts what arrives, for the figures. An ordinary page does not need it. */
class CountingSocket extends WebSocket {
  constructor(...options) {
    super(...options);
    this.addEventListener("message", ({ data }) => {
      received.bytes += data.length ?? data.size ?? data.byteLength;
    });
  }
}

const figures = new Figures(root, () => received.bytes);
// Before the world is loaded, so that the connection is open when the map knows what it shows.
const connection = join();
const world = await loadWorld(root.dataset.worldUrl);
const map = createMap();
const colours = coloursOf(root);
const coast = new WorldLayer(world, colours).addTo(map);
const vehicles = new VehicleLayer(world.cities, colours, () => figures.drawn()).addTo(map);
const live = subscribe();
watchLegend();
watchMap();
watchAppearance();
figures.start({ map, live, connection });
const form = root.querySelector("[data-switch]");
if (form) new Switch(form, root.dataset.simulationUrl).start();
// For tests, and to look around in the console.
globalThis.liveMap = { map, live, connection, vehicles };

function join() {
  const connection = connect({
    url: root.dataset.websocketUrl,
    user: root.dataset.user,
    // A connection of this tab's own, so that its bytes can be counted.
    SharedWorker: null,
    WebSocket: CountingSocket,
  });
  connection.on("error", ({ detail }) => figures.say(detail));
  connection.on("signedout", () => location.reload());
  return connection;
}

function createMap() {
  const start = startOf(location.hash) ?? START;
  return new LeafletMap(root.querySelector("[data-map]"), {
    ...start,
    // The page has its own, which can be styled and translated.
    zoomControl: false,
    attributionControl: false,
    // As far out as the world fills the map.
    minZoom: 1,
    maxZoom: 16,
    maxBounds: [
      [-85, -Infinity],
      [85, Infinity],
    ],
    maxBoundsViscosity: 1,
    zoomAnimation: !isCalm(),
    fadeAnimation: false,
    inertia: !isCalm(),
  });
}

function subscribe() {
  performance.mark("vehicles:subscribe");
  const live = connection.subscribe("vehicles.*", { filter: filter() });
  live.on("change", ({ items, left }) => {
    for (const { topic, keys } of left) for (const key of keys) vehicles.remove(topic, key);
    const before = vehicles.dots.size;
    for (const item of items) vehicles.put(item);
    figures.changed(items);
    if (left.length > 0 || vehicles.dots.size !== before) vehicles.drawSoon();
    else vehicles.moved();
  });
  live.on("snapshot", () => figures.answered());
  live.on("error", ({ detail }) => figures.say(detail));
  return live;
}

/** What is on the screen, and what the legend says. */
function filter() {
  const bounds = map.getBounds();
  const chosen = [...legend.querySelectorAll("[name=mode]")].filter(({ checked }) => checked);
  const tags = { mode: chosen.map(({ value }) => value) };
  if (legend.elements.namedItem("late").checked) tags.delay = { gte: LATE_SECONDS };
  const bbox = [bounds.getWest(), Math.max(-85, bounds.getSouth()), bounds.getEast(), Math.min(85, bounds.getNorth())];
  return { bbox, zoom: map.getZoom(), tags };
}

function watchMap() {
  // For each movement: the client sends only the newest filter.
  map.on("move zoomend resize", () => live.setFilter(filter()));
  map.on("moveend", () => {
    const { lat, lng } = map.getCenter();
    const place = `#${map.getZoom()}/${lat.toFixed(4)}/${map.wrapLatLng([lat, lng]).lng.toFixed(4)}`;
    history.replaceState(history.state, "", place);
    figures.moved();
  });
  map.on("click", ({ containerPoint }) => figures.select(vehicles.nearest(containerPoint)));
  map.on("pointermove", ({ containerPoint }) => {
    map.getContainer().classList.toggle("live__map--pointing", vehicles.nearest(containerPoint, 8) !== null);
  });
  root.querySelector(".live__zoom").addEventListener("click", ({ target }) => {
    const zoom = target.closest("[data-zoom]")?.dataset.zoom;
    if (zoom === "in") map.zoomIn();
    else if (zoom === "out") map.zoomOut();
    else if (zoom === "world") map.setView(START.center, START.zoom);
  });
  new ResizeObserver(() => map.invalidateSize({ pan: false })).observe(map.getContainer());
}

function watchLegend() {
  legend.addEventListener("change", () => {
    live.setFilter(filter());
    figures.moved();
  });
  legend.addEventListener("submit", (event) => event.preventDefault());
}

function watchAppearance() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    colours.forget();
    coast.redraw();
    vehicles.recolour();
  });
  const motion = matchMedia("(prefers-reduced-motion: reduce)");
  motion.addEventListener("change", () => vehicles.setCalm(motion.matches));
  vehicles.setCalm(motion.matches);
  document.addEventListener("visibilitychange", () => vehicles.drawSoon());
}

function isCalm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** From `#zoom/latitude/longitude`. */
function startOf(hash) {
  const [zoom, latitude, longitude] = hash.slice(1).split("/").map(Number);
  if (![zoom, latitude, longitude].every(Number.isFinite)) return null;
  return { center: [Math.max(-85, Math.min(85, latitude)), longitude], zoom };
}

/** The style sheet's colours. A variable with `light-dark()` has no colour of its own, so an element shows each. */
function coloursOf(element) {
  const names = ["land", "coast", "border", "label", "halo", "rail", "ferry", "metro", "tram", "bus"];
  let known = null;
  const read = () => {
    const probe = element.appendChild(document.createElement("i"));
    const colourOf = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const found = Object.fromEntries(names.map((name) => [name, colourOf(name)]));
    probe.remove();
    const { rail, ferry, metro, tram, bus } = found;
    return { ...found, modes: { rail, ferry, metro, tram, bus } };
  };
  const colours = () => (known ??= read());
  colours.forget = () => (known = null);
  return colours;
}
