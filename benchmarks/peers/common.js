// What the Node servers share: who a cookie belongs to, and one Redis subscription a topic however many sockets hear it.
'use strict';

const fs = require('node:fs');
const Redis = require('ioredis');

const [port, redisUrl, cookiesFile] = process.argv.slice(2);

// The cheapest check there is: every session in a Map.
const users = new Map();
for (const line of fs.readFileSync(cookiesFile, 'utf8').split('\n')) {
  const [user, session] = line.split('\t');
  if (session) users.set(session, user);
}

function userOf(cookieHeader) {
  const found = /(?:^|; *)sessionid=([^;]+)/.exec(cookieHeader || '');
  return found && users.get(found[1]);
}

// ioredis takes a path for a unix socket.
const redis = () => new Redis(redisUrl.replace(/^unix:\/\//, ''), { maxRetriesPerRequest: null });

// Topic -> { count, ready }: subscribed to while somebody hears it.
const topics = new Map();

function join(subscriber, topic) {
  let entry = topics.get(topic);
  if (!entry) {
    entry = { count: 0, ready: subscriber.subscribe(topic) };
    topics.set(topic, entry);
  }
  entry.count++;
  return entry.ready;
}

function leave(subscriber, topic) {
  const entry = topics.get(topic);
  if (--entry.count === 0) {
    topics.delete(topic);
    subscriber.unsubscribe(topic);
  }
}

const topicOf = (query, user) => new URLSearchParams(query).get('topic') || `user.${user}`;

module.exports = { port: Number(port), redis, userOf, topicOf, join, leave };
