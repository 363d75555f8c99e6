// Socket.IO with its Redis adapter, websocket transport only; the first request is let go, as its manual advises.
'use strict';

const http = require('node:http');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/redis-adapter');
const { port, redis, userOf, topicOf } = require('./common');

const server = http.createServer();
const io = new Server(server, {
  transports: ['websocket'],
  perMessageDeflate: false,
  serveClient: false,
  adapter: createAdapter(redis(), redis()),
  allowRequest: (request, callback) => callback(null, Boolean(userOf(request.headers.cookie))),
});

io.on('connection', async (socket) => {
  const user = userOf(socket.handshake.headers.cookie);
  const topic = topicOf(socket.request.url.split('?')[1], user);
  await socket.join(topic);
  socket.emit('ready');
  socket.conn.request = null;
});

server.listen({ port, host: '127.0.0.1', backlog: 4096 });
