/**
 * The layer that draws the vehicles, and moves them smoothly from one position to the next.
 *
 * Owns the canvas and its frames. Does not own which vehicles there are (map.js) nor the map.
 *
 * A frame is drawn only if something has moved by a visible distance: from afar that is a few times a second. Browsers
 * draw no frames in hidden tabs.
 */

import { BlanketOverlay } from "./leaflet/leaflet.js";
import { xOf, yOf } from "./world.js";

/** A little more than the second between two positions: a vehicle whose next position is late does not stop. */
const GLIDE_MS = 1_150;
/** A jump of more than this part of the world is not a movement. */
const JUMP = 0.005;
/** A frame is worth drawing when something has moved by this many pixels. */
const VISIBLE_PX = 0.3;
const SLOWEST_FRAME_MS = 500;
const TURNS = 24;
/** A dot whose middle is outside may still be seen. */
const MARGIN_PX = 20;
/** From this zoom on, the dots show where they go. */
const ARROWS_FROM_ZOOM = 10;
const LABELS_LIMIT = 40;

/**
 * @typedef {object} Dot
 * @property {import("../../realtime/client.d.ts").Item} item
 * @property {string} mode
 * @property {number} x Where it is drawn, and comes from: 0 to 1.
 * @property {number} y
 * @property {number} dx How far it goes from there.
 * @property {number} dy
 * @property {number} since When it began, in milliseconds.
 */

export class VehicleLayer extends BlanketOverlay {
  /**
   * @param {{name: string, x: number, y: number}[]} cities
   * @param {() => {modes: Record<string, string>, label: string, halo: string}} colours
   * @param {() => void} onDrawn After each frame.
   */
  constructor(cities, colours, onDrawn) {
    super({ padding: 0, continuous: true });
    /** By `${topic} ${key}`. @type {Map<string, Dot>} */
    this.dots = new Map();
    this.cities = cities;
    this.colours = colours;
    this.onDrawn = onDrawn;
    this.isCalm = false;
    this.frame = 0;
    this.timer = 0;
    this.sprites = null;
    this.labels = null;
  }

  /** Whether dots jump to their new positions, for those who prefer reduced motion. */
  setCalm(isCalm) {
    this.isCalm = isCalm;
    this.drawSoon();
  }

  /** The colours have changed. */
  recolour() {
    this.sprites = null;
    this.drawSoon();
  }

  /** @param {import("../../realtime/client.d.ts").Item} item */
  put(item, now = performance.now()) {
    const id = `${item.topic} ${item.key}`;
    const { lon, lat, mode } = item.data;
    const [x, y] = [xOf(lon), yOf(lat)];
    const dot = this.dots.get(id);
    if (dot === undefined) {
      this.dots.set(id, { item, mode, x, y, dx: 0, dy: 0, since: now });
      return;
    }
    const done = this.#progress(dot, now);
    const [fromX, fromY] = [dot.x + dot.dx * done, dot.y + dot.dy * done];
    const isJump = this.isCalm || Math.abs(x - fromX) + Math.abs(y - fromY) > JUMP;
    dot.item = item;
    dot.mode = mode;
    dot.x = isJump ? x : fromX;
    dot.y = isJump ? y : fromY;
    dot.dx = x - dot.x;
    dot.dy = y - dot.y;
    dot.since = now;
  }

  remove(topic, key) {
    this.dots.delete(`${topic} ${key}`);
  }

  /** Draw in the next frame; several calls are one frame. */
  drawSoon() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.frame ||= requestAnimationFrame((now) => {
      this.frame = 0;
      this.draw(now);
    });
  }

  /** Make sure that positions that have just arrived are drawn; from afar not at once. */
  moved() {
    if (!this.frame && !this.timer) this.timer = setTimeout(() => this.drawSoon(), SLOWEST_FRAME_MS / 2);
  }

  /** The nearest dot to a point of the map, within some pixels. @returns {Dot | null} */
  nearest({ x, y }, withinPx = 14) {
    const now = performance.now();
    let [found, least] = [null, withinPx];
    for (const dot of this.dots.values()) {
      const dotY = this.#yOf(dot, now);
      for (let dotX = this.#firstXOf(dot, now); dotX < this.width + MARGIN_PX; dotX += this.scale) {
        const distance = Math.hypot(dotX - x, dotY - y);
        if (distance < least) [found, least] = [dot, distance];
      }
    }
    return found;
  }

  _initContainer() {
    this._container = document.createElement("canvas");
    this._container.className = "live__vehicles";
    this._container.ariaHidden = "true";
    this.context = this._container.getContext("2d");
  }

  _destroyContainer() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    super._destroyContainer();
  }

  _resizeContainer() {
    const ratio = globalThis.devicePixelRatio || 1;
    const { x, y } = this._map.getSize();
    const [width, height] = [Math.round(x * ratio), Math.round(y * ratio)];
    if (this._container.width === width && this._container.height === height && this.ratio === ratio) return;
    super._resizeContainer();
    this._container.width = width;
    this._container.height = height;
    this.ratio = ratio;
    this.sprites = null;
  }

  /** The map has moved: at once, so that dots never lag behind the coast. */
  _onSettled() {
    this._resizeContainer();
    this.labels = null;
    this.draw(performance.now());
  }

  draw(now) {
    if (!this._map || document.hidden) return;
    const { context, ratio } = this;
    const zoom = this._map.getZoom();
    const size = sizeOf(zoom);
    this.#view();
    this.sprites ??= new Map();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this._container.width, this._container.height);
    this.#drawLabels(zoom);
    let fastest = 0;
    for (const dot of this.dots.values()) {
      if (now - dot.since < GLIDE_MS) fastest = Math.max(fastest, Math.abs(dot.dx) + Math.abs(dot.dy));
      const y = this.#yOf(dot, now);
      if (y < -MARGIN_PX || y > this.height + MARGIN_PX) continue;
      const { bearing, speed } = dot.item.data;
      const hasArrow = zoom >= ARROWS_FROM_ZOOM && speed > 0;
      const sprite = this.#sprite(dot.mode, size, hasArrow ? Math.round((bearing / 360) * TURNS) % TURNS : -1);
      const half = sprite.width / 2;
      for (let x = this.#firstXOf(dot, now); x < this.width + MARGIN_PX; x += this.scale) {
        context.drawImage(sprite, Math.round(x * ratio - half), Math.round(y * ratio - half));
      }
    }
    this.#plan((fastest * this.scale) / GLIDE_MS);
    this.onDrawn();
  }

  /** The next frame: when the fastest dot has moved by a visible distance. */
  #plan(pixelsPerMs) {
    if (this.frame || this.isCalm || pixelsPerMs * SLOWEST_FRAME_MS < VISIBLE_PX) return;
    const wait = VISIBLE_PX / pixelsPerMs;
    if (wait <= 20) this.drawSoon();
    else if (!this.timer) this.timer = setTimeout(() => this.drawSoon(), wait);
  }

  /** Where the world's square is on the canvas, in CSS pixels. */
  #view() {
    const { x, y } = this._map.getSize();
    const centre = this._map.getCenter();
    this.scale = 256 * 2 ** this._map.getZoom();
    this.left = xOf(centre.lng) * this.scale - x / 2;
    this.top = yOf(centre.lat) * this.scale - y / 2;
    this.width = x;
    this.height = y;
  }

  #yOf(dot, now) {
    return (dot.y + dot.dy * this.#progress(dot, now)) * this.scale - this.top;
  }

  /** The first place from the left: from afar the world is on the canvas more than once, each `scale` further. */
  #firstXOf(dot, now) {
    const x = (dot.x + dot.dx * this.#progress(dot, now)) * this.scale - this.left;
    return x - Math.floor((x + MARGIN_PX) / this.scale) * this.scale;
  }

  /** How much of its way a dot has gone. */
  #progress(dot, now) {
    return this.isCalm ? 1 : Math.min(1, (now - dot.since) / GLIDE_MS);
  }

  #drawLabels(zoom) {
    const { context, ratio } = this;
    const { label, halo } = this.colours();
    context.font = `${(zoom < 5 ? 11 : 13) * ratio}px Inter, "Segoe UI", Arial, sans-serif`;
    context.textAlign = "center";
    context.lineJoin = "round";
    context.lineWidth = 3 * ratio;
    context.strokeStyle = halo;
    context.fillStyle = label;
    this.labels ??= this.#chooseLabels(zoom);
    for (const { name, x, y } of this.labels) {
      context.strokeText(name, x * ratio, y * ratio);
      context.fillText(name, x * ratio, y * ratio);
    }
  }

  /** The largest cities in view whose names do not overlap. */
  #chooseLabels(zoom) {
    const chosen = [];
    const limit = Math.min(LABELS_LIMIT, Math.round((this.width * this.height) / 22_000));
    for (const { name, x: worldX, y: worldY } of this.cities) {
      if (chosen.length >= limit) break;
      const y = worldY * this.scale - this.top - (zoom < ARROWS_FROM_ZOOM ? 9 : 0);
      let x = worldX * this.scale - this.left;
      x -= Math.floor((x + 60) / this.scale) * this.scale;
      const width = name.length * 7 + 14;
      if (x < 8 || x > this.width - 8 || y < 14 || y > this.height - 4) continue;
      const isFree = chosen.every(
        (other) => Math.abs(other.y - y) > 22 || Math.abs(other.x - x) > (other.width + width) / 2,
      );
      if (isFree) chosen.push({ name, x, y, width });
    }
    return chosen;
  }

  /** A dot of this mode, drawn once; `turn` says where its nose points, -1 if it has none. */
  #sprite(mode, size, turn) {
    const id = `${mode} ${size} ${turn}`;
    const known = this.sprites.get(id);
    if (known !== undefined) return known;
    const { modes, halo } = this.colours();
    const radius = size * this.ratio;
    const sprite = document.createElement("canvas");
    sprite.width = sprite.height = 2 * Math.ceil(radius * 2.2 + 2);
    const context = sprite.getContext("2d");
    context.translate(sprite.width / 2, sprite.height / 2);
    context.beginPath();
    context.arc(0, 0, radius, 0, 2 * Math.PI);
    if (turn >= 0) {
      context.rotate((turn / TURNS) * 2 * Math.PI);
      context.moveTo(-radius * 0.8, -radius * 0.6);
      context.lineTo(0, -radius * 2);
      context.lineTo(radius * 0.8, -radius * 0.6);
    }
    if (size >= 3) {
      context.lineWidth = radius * 0.6;
      context.lineJoin = "round";
      context.strokeStyle = halo;
      context.stroke();
    }
    context.fillStyle = modes[mode] ?? halo;
    context.fill();
    this.sprites.set(id, sprite);
    return sprite;
  }
}

/** The radius of a dot, in CSS pixels. */
function sizeOf(zoom) {
  if (zoom < 4) return 2;
  if (zoom < 7) return 2.5;
  if (zoom < 10) return 3.5;
  return zoom < 13 ? 4.5 : 6;
}
