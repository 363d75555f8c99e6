// Socket.IO: a room a tile, and its Redis adapter; the server keeps what is in each tile for those who come to it.
'use strict';

const http = require('node:http');
const msgpack = require('notepack.io');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/redis-adapter');
const { port, redis, userOf } = require('./common');
const { Tiles, View } = require('./map_tiles');

const [levels] = process.argv.slice(5);
const tiles = new Tiles(levels.split(',').map(Number));

// What the emitter sent is decoded once, by the adapter's own parser; the vehicle is kept on the way.
const parser = {
  encode: msgpack.encode,
  decode: (message) => {
    const args = msgpack.decode(message);
    const vehicle = args[1].data[1];
    tiles.take(vehicle.v, vehicle.x, vehicle.y, vehicle, () => {});
    return args;
  },
};

const server = http.createServer();
const io = new Server(server, {
  transports: ['websocket'],
  perMessageDeflate: false,
  serveClient: false,
  adapter: createAdapter(redis(), redis(), { parser }),
  allowRequest: (request, callback) => callback(null, Boolean(userOf(request.headers.cookie))),
});

io.on('connection', (socket) => {
  const view = new View(tiles);
  socket.on('view', (words) => {
    const entered = view.change(
      words,
      (tile) => socket.join(tile.name),
      (tile) => socket.leave(tile.name),
    );
    socket.emit('snapshot', entered.map((vehicle) => vehicle.payload));
    socket.emit('done', words[5]);
  });
  socket.on('disconnect', () => view.close());
  socket.emit('ready');
  socket.conn.request = null;
});

server.listen({ port, host: '127.0.0.1', backlog: 4096 });
