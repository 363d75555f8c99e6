// What the Node servers of the map share: the newest update of each vehicle, in the tiles of each level that is in use.
'use strict';

const WORLD_BITS = 30;

// Levels and the tiles across a world differ by powers of two: a tile is a place, shifted.
class Tiles {
  constructor(levels) {
    this.levels = levels;
    this.tiles = levels.map(() => new Map());
    this.vehicles = new Map();
  }

  tile(at, x, y) {
    const bits = WORLD_BITS - this.levels[at];
    return this.tileAt(at, x >>> bits, y >>> bits);
  }

  tileAt(at, column, row) {
    const key = column * 0x400000 + row;
    let tile = this.tiles[at].get(key);
    if (!tile) {
      tile = { name: `${this.levels[at]}/${column}/${row}`, column, row, members: new Set(), count: 0 };
      this.tiles[at].set(key, tile);
    }
    return tile;
  }

  // Takes an update; calls `send` with each tile that it is in, and with each that it has left.
  take(id, x, y, payload, send) {
    let vehicle = this.vehicles.get(id);
    if (!vehicle) {
      vehicle = { payload, tiles: this.levels.map((_, at) => this.tile(at, x, y)) };
      this.vehicles.set(id, vehicle);
      for (const tile of vehicle.tiles) tile.members.add(vehicle);
    }
    vehicle.payload = payload;
    for (let at = 0; at < this.levels.length; at++) {
      const bits = WORLD_BITS - this.levels[at];
      let tile = vehicle.tiles[at];
      if (tile.column !== x >>> bits || tile.row !== y >>> bits) {
        // Who has the old tile only must see that it has gone.
        if (tile.count) send(tile);
        tile.members.delete(vehicle);
        tile = vehicle.tiles[at] = this.tile(at, x, y);
        tile.members.add(vehicle);
      }
      if (tile.count) send(tile);
    }
  }
}

// What a viewer asks for: "level x0 y0 x1 y1 number", in tiles.
class View {
  constructor(tiles) {
    this.tiles = tiles;
    this.held = new Set();
  }

  // Calls `join` and `leave` with what is new and what is not wanted any more; returns the vehicles of what is new.
  change([level, x0, y0, x1, y1], join, leave) {
    const at = this.tiles.levels.indexOf(level);
    const wanted = new Set();
    const entered = [];
    for (let column = x0; column <= x1; column++) {
      for (let row = y0; row <= y1; row++) wanted.add(this.tiles.tileAt(at, column, row));
    }
    for (const tile of this.held) {
      if (wanted.has(tile)) continue;
      tile.count--;
      leave(tile);
    }
    for (const tile of wanted) {
      if (this.held.has(tile)) continue;
      tile.count++;
      join(tile);
      for (const vehicle of tile.members) entered.push(vehicle);
    }
    this.held = wanted;
    return entered;
  }

  close() {
    for (const tile of this.held) tile.count--;
    this.held = new Set();
  }
}

module.exports = { Tiles, View };
