// uWebSockets.js: a topic a tile, with its own publish; the server keeps what is in each tile for those who come to it.
'use strict';

const uWS = require('uwebsockets');
const { port, redis, userOf } = require('./common');
const { Tiles, View } = require('./map_tiles');

const [levels, feeds] = process.argv.slice(5);
const tiles = new Tiles(levels.split(',').map(Number));
const NEWLINE = Buffer.from('\n');

const subscriber = redis();
for (let feed = 0; feed < Number(feeds); feed++) subscriber.subscribe(`vehicles.f${feed}`);
// A publication begins with the vehicle and its place, so that nothing is parsed.
subscriber.on('messageBuffer', (channel, message) => {
  const payload = message.subarray(12);
  tiles.take(message.readUInt32LE(0), message.readUInt32LE(4), message.readUInt32LE(8), payload, (tile) =>
    app.publish(tile.name, payload, false),
  );
});

const app = uWS.App().ws('/ws', {
  compression: uWS.DISABLED,
  maxPayloadLength: 64 * 1024,
  maxBackpressure: 4 * 1024 * 1024,
  closeOnBackpressureLimit: true,
  idleTimeout: 120,
  upgrade: (response, request, context) => {
    if (!userOf(request.getHeader('cookie'))) {
      response.writeStatus('403 Forbidden').end();
      return;
    }
    response.upgrade(
      { view: new View(tiles) },
      request.getHeader('sec-websocket-key'),
      request.getHeader('sec-websocket-protocol'),
      request.getHeader('sec-websocket-extensions'),
      context,
    );
  },
  open: (socket) => socket.send('{"type":"ready"}'),
  message: (socket, message) => {
    const words = Buffer.from(message).toString('latin1').split(' ').map(Number);
    const entered = socket.getUserData().view.change(
      words,
      (tile) => socket.subscribe(tile.name),
      (tile) => socket.unsubscribe(tile.name),
    );
    const lines = [Buffer.from('{"type":"snapshot"}\n')];
    for (const vehicle of entered) lines.push(vehicle.payload, NEWLINE);
    lines.push(Buffer.from(`{"type":"done","number":${words[5]}}`));
    socket.send(Buffer.concat(lines), false);
  },
  close: (socket) => socket.getUserData().view.close(),
});
app.listen('127.0.0.1', port, (listening) => {
  if (!listening) process.exit(1);
});
