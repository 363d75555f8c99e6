// uWebSockets.js: its own publish, which sends what one turn of the event loop brought in one go.
'use strict';

const uWS = require('uwebsockets');
const { port, redis, userOf, topicOf, join, leave } = require('./common');

const subscriber = redis();
// Buffers, so that no text is decoded on the way.
subscriber.on('messageBuffer', (channel, message) => app.publish(channel.toString('latin1'), message, false));

const app = uWS.App().ws('/ws', {
  compression: uWS.DISABLED,
  maxPayloadLength: 64 * 1024,
  maxBackpressure: 1024 * 1024,
  closeOnBackpressureLimit: true,
  idleTimeout: 120,
  upgrade: (response, request, context) => {
    const user = userOf(request.getHeader('cookie'));
    if (!user) {
      response.writeStatus('403 Forbidden').end();
      return;
    }
    response.upgrade(
      { topic: topicOf(request.getQuery(), user), isOpen: true },
      request.getHeader('sec-websocket-key'),
      request.getHeader('sec-websocket-protocol'),
      request.getHeader('sec-websocket-extensions'),
      context,
    );
  },
  open: async (socket) => {
    const data = socket.getUserData();
    socket.subscribe(data.topic);
    await join(subscriber, data.topic);
    if (data.isOpen) socket.send('{"type":"ready"}');
  },
  close: (socket) => {
    const data = socket.getUserData();
    data.isOpen = false;
    leave(subscriber, data.topic);
  },
});
app.listen('127.0.0.1', port, (listening) => {
  if (!listening) process.exit(1);
});
