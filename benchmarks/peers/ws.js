// ws: a Set of sockets a topic, and send() for each; compression off, text passed on as the bytes it came in.
'use strict';

const http = require('node:http');
const { WebSocketServer } = require('ws');
const { port, redis, userOf, topicOf, join, leave } = require('./common');

const subscriber = redis();
const sockets = new Map();
const options = { binary: false, compress: false, fin: true };

subscriber.on('messageBuffer', (channel, message) => {
  const members = sockets.get(channel.toString('latin1'));
  if (members) for (const socket of members) socket.send(message, options);
});

const webSockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, clientTracking: false });
const server = http.createServer();

server.on('upgrade', (request, socket, head) => {
  const user = userOf(request.headers.cookie);
  if (!user) {
    socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    return;
  }
  const topic = topicOf(request.url.split('?')[1], user);
  webSockets.handleUpgrade(request, socket, head, (webSocket) => open(webSocket, topic));
});

async function open(webSocket, topic) {
  let members = sockets.get(topic);
  if (!members) sockets.set(topic, (members = new Set()));
  members.add(webSocket);
  webSocket.on('error', () => {});
  webSocket.on('close', () => {
    members.delete(webSocket);
    if (members.size === 0 && sockets.get(topic) === members) sockets.delete(topic);
    leave(subscriber, topic);
  });
  await join(subscriber, topic);
  webSocket.send('{"type":"ready"}', options);
}

server.listen({ port, host: '127.0.0.1', backlog: 4096 });
