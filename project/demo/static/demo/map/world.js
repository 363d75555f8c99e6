/**
 * The world as Web Mercator, and the layer that draws its coasts and borders.
 *
 * Owns reading world.json and drawing tiles of it. Does not own the vehicles.
 *
 * world.json is a small TopoJSON: each arc is [x, y, dx, dy, …] in `units` a degree; ~n is arc n backwards.
 */

import { GridLayer } from "./leaflet/leaflet.js";

const LATITUDE_LIMIT = 85.0511287798066;

/** The place of a longitude in the world's square, 0 to 1 from west to east. */
export const xOf = (longitude) => longitude / 360 + 0.5;

/** The place of a latitude, 0 to 1 from north to south. */
export const yOf = (latitude) => {
  const limited = Math.max(-LATITUDE_LIMIT, Math.min(LATITUDE_LIMIT, latitude));
  return 0.5 - Math.log(Math.tan(Math.PI / 4 + (limited * Math.PI) / 360)) / (2 * Math.PI);
};

/**
 * @typedef {object} World
 * @property {{rings: Float64Array[], box: number[]}[]} land
 * @property {{line: Float64Array, box: number[]}[]} borders
 * @property {{name: string, x: number, y: number}[]} cities Largest first.
 */

/** @param {string} url @returns {Promise<World>} */
export async function loadWorld(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  const { units, arcs, land, borders, cities } = await response.json();
  const lines = arcs.map((arc) => lineOf(arc, units));
  return {
    land: land.map((polygon) => {
      const rings = polygon.map((ring) => ringOf(ring, lines));
      return { rings, box: boxOf(rings[0]) };
    }),
    borders: borders.map((index) => ({ line: lines[index], box: boxOf(lines[index]) })),
    cities: cities.map(([name, longitude, latitude]) => ({ name, x: xOf(longitude), y: yOf(latitude) })),
  };
}

/** An arc as x, y, x, y, … */
function lineOf(arc, units) {
  const line = new Float64Array(arc.length);
  let [x, y] = [0, 0];
  for (let index = 0; index < arc.length; index += 2) {
    x += arc[index];
    y += arc[index + 1];
    line[index] = xOf(x / units);
    line[index + 1] = yOf(y / units);
  }
  return line;
}

/** A ring as one line. If it crosses longitude 180 it goes on there, beyond 0 and 1. */
function ringOf(ring, lines) {
  const points = [];
  let shift = 0;
  const follow = (x) => {
    const step = x + shift - (points.at(-2) ?? x);
    if (Math.abs(step) > 0.5) shift -= Math.sign(step);
  };
  for (const arc of ring) {
    const line = lines[arc < 0 ? ~arc : arc];
    // The last point of an arc is the first of the next.
    for (let index = 0; index < line.length - 2; index += 2) {
      const at = arc < 0 ? line.length - 2 - index : index;
      follow(line[at]);
      points.push(line[at] + shift, line[at + 1]);
    }
  }
  const [x, y] = points;
  follow(x);
  // It goes around a pole, the southern one: what is beyond its coast is land.
  if (shift !== 0) points.push(x + shift, y, x + shift, 2, x, 2);
  return Float64Array.from(points);
}

function boxOf(line) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let index = 0; index < line.length; index += 2) {
    box[0] = Math.min(box[0], line[index]);
    box[1] = Math.min(box[1], line[index + 1]);
    box[2] = Math.max(box[2], line[index]);
    box[3] = Math.max(box[3], line[index + 1]);
  }
  return box;
}

/** Coasts and borders as tiles that are drawn here, so no server of tiles is needed. */
export class WorldLayer extends GridLayer {
  /** @param {World} world @param {() => {land: string, coast: string, border: string}} colours */
  constructor(world, colours) {
    // While the map moves, so that its edges are never empty.
    super({ updateWhenIdle: false, updateInterval: 60, keepBuffer: 3 });
    this.world = world;
    this.colours = colours;
  }

  createTile({ x, y, z }) {
    const size = this.getTileSize().x;
    const ratio = Math.min(2, globalThis.devicePixelRatio || 1);
    const tile = document.createElement("canvas");
    tile.width = tile.height = size * ratio;
    const scale = size * ratio * 2 ** z;
    this.#draw(tile.getContext("2d"), { left: x * size * ratio, top: y * size * ratio, scale, size: size * ratio, ratio });
    return tile;
  }

  #draw(context, view) {
    const { left, top, scale, size, ratio } = view;
    const margin = 4 * ratio;
    const isSeen = ([x0, y0, x1, y1], from = left) =>
      x1 * scale > from - margin &&
      x0 * scale < from + size + margin &&
      y1 * scale > top - margin &&
      y0 * scale < top + size + margin;
    const { land, coast, border } = this.colours();
    context.beginPath();
    // Also what goes on beyond longitude 180.
    for (const turn of [-scale, 0, scale]) {
      const turned = { ...view, left: left + turn };
      for (const { rings, box } of this.world.land) {
        if (isSeen(box, turned.left)) for (const ring of rings) trace(context, ring, turned).closePath();
      }
    }
    context.fillStyle = land;
    context.fill("evenodd");
    context.lineWidth = ratio * 0.8;
    context.strokeStyle = coast;
    context.stroke();
    context.beginPath();
    for (const { line, box } of this.world.borders) if (isSeen(box)) trace(context, line, view);
    context.strokeStyle = border;
    context.stroke();
  }
}

/** Add a line to the path, without points that change nothing in the tile. */
function trace(context, line, { left, top, scale, size }) {
  const end = line.length - 2;
  let [lastX, lastY] = [line[0] * scale - left, line[1] * scale - top];
  let lastSide = sidesOf(lastX, lastY, size);
  context.moveTo(lastX, lastY);
  for (let index = 2; index <= end; index += 2) {
    const x = line[index] * scale - left;
    const y = line[index + 1] * scale - top;
    const side = sidesOf(x, y, size);
    if (index < end) {
      if (Math.abs(x - lastX) < 0.4 && Math.abs(y - lastY) < 0.4) continue;
      // Both pieces and the one that replaces them are on the same side outside.
      const next = sidesOf(line[index + 2] * scale - left, line[index + 3] * scale - top, size);
      if (side & lastSide & next) continue;
    }
    context.lineTo(x, y);
    [lastX, lastY, lastSide] = [x, y, side];
  }
  return context;
}

/** On which sides of the tile a point is outside, as bits. */
const sidesOf = (x, y, size) => (x < -8 ? 1 : x > size + 8 ? 2 : 0) | (y < -8 ? 4 : y > size + 8 ? 8 : 0);
