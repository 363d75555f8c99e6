/** Where a client is in its topics: subscribing, coming back, gaps, repeats, and what it tells the server. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { fakeBrowser, message, subscribed } from "./fakes.js";

const NEWS = "news.sport";
const news = (offset) => message(offset, NEWS);

/** An open connection, and what a subscription or the connection itself hears, as offsets and names. */
function opened() {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  const heard = hear(connection);
  browser.socket.hello({}, { offset: 16 });
  return { browser, connection, heard };
}

function hear(source) {
  const heard = [];
  source.on("message", ({ offset, data }) => heard.push(offset ?? data));
  source.on("resync", () => heard.push("resync"));
  source.on("error", ({ code }) => heard.push(code));
  return heard;
}

/** As `opened()`, with a subscription to the news that stands at 5. */
function subscribedToNews() {
  const stage = opened();
  const subscription = stage.connection.subscribe(NEWS);
  const heard = hear(subscription);
  stage.browser.socket.takeSent();
  stage.browser.socket.frames(subscribed(NEWS, { offset: 5 }));
  return { ...stage, subscription, own: stage.heard, heard };
}

const reconnected = (browser, ...frames) => {
  browser.socket.lost();
  browser.clock.pass(20_000);
  browser.socket.hello({}, { offset: 16, recovered: true });
  if (frames.length > 0) browser.socket.frames(...frames);
};

test("the user's own topic is there without asking, and begins with a resync: the page may be older", () => {
  const { browser, heard } = opened();
  browser.socket.frames(message(17), message(18));
  assert.deepEqual(heard, ["resync", 17, 18]);
  assert.deepEqual(browser.socket.sent, []);
});

test("the first connection gives no position, the next ones that of the own topic", () => {
  const { browser } = opened();
  assert.equal(browser.socket.url, "wss://shop.example/ws/");
  browser.socket.frames(message(17));
  browser.socket.lost();
  browser.clock.pass(500);
  assert.equal(browser.socket.url, "wss://shop.example/ws/?offset=17&epoch=e1");
});

test("what was recovered goes on silently, without repeats; what was not is a resync", () => {
  const { browser, heard } = opened();
  browser.socket.frames(message(17));
  browser.socket.lost();
  browser.clock.pass(500);
  browser.socket.hello({}, { offset: 17, recovered: true });
  browser.socket.frames(message(17), message(18));
  browser.socket.lost();
  browser.clock.pass(1000);
  browser.socket.hello({}, { offset: 3, epoch: "e2" });
  browser.socket.frames(message(4));
  assert.deepEqual(heard, ["resync", 17, 18, "resync", 4]);
  browser.socket.lost();
  browser.clock.pass(2000);
  assert.match(browser.socket.url, /offset=4&epoch=e2$/);
});

test("a server that loses Redis for a while says so in mid-connection", () => {
  const { browser, heard } = opened();
  browser.socket.frames(subscribed("user.42", { offset: 40 }), message(41));
  assert.deepEqual(heard, ["resync", "resync", 41]);
});

test("the first publication of all brings the epoch", () => {
  const browser = fakeBrowser();
  const heard = hear(connect(browser.options));
  browser.socket.hello({}, { offset: 0, epoch: "" });
  browser.socket.frames(subscribed("user.42", { offset: 0, epoch: "e7", recovered: true }), message(1));
  assert.deepEqual(heard, ["resync", 1]);
  browser.socket.lost();
  browser.clock.pass(500);
  assert.match(browser.socket.url, /offset=1&epoch=e7$/);
});

test("another user's hello is another topic, from its beginning", () => {
  const { browser, heard } = opened();
  browser.socket.lost();
  browser.clock.pass(500);
  browser.socket.hello({ user_id: 7 }, { offset: 16 });
  browser.socket.frames(message(17), message(17, "user.7"));
  assert.deepEqual(heard, ["resync", "resync", 17]);
});

test("past the history, a resync says how many are lost, and what is kept comes after it", () => {
  const { browser, connection, heard } = opened();
  const lost = [];
  connection.on("resync", (detail) => lost.push(detail));
  browser.socket.frames(message(17));
  browser.socket.lost();
  browser.clock.pass(500);
  browser.socket.hello({}, { offset: 20, lost: 3 });
  browser.socket.frames(message(21), message(22));
  assert.deepEqual(heard, ["resync", 17, "resync", 21, 22]);
  assert.deepEqual(lost, [{ topic: "user.42", lost: 3 }]);
  browser.socket.lost();
  browser.clock.pass(1000);
  assert.match(browser.socket.url, /offset=22&epoch=e1$/);
});

test("the user's own topic is what the server says that it is", () => {
  const { browser, heard } = opened();
  browser.socket.lost();
  browser.clock.pass(500);
  browser.socket.hello({ user_id: "a@b", topic: "user..a_40b" }, { offset: 16 });
  browser.socket.frames(message(17, "user.a@b"), message(17, "user..a_40b"));
  assert.deepEqual(heard, ["resync", "resync", 17]);
});

test("a gap is asked for once, and filled without loss or repeat", () => {
  const { browser, heard } = opened();
  browser.socket.frames(message(17), message(20), message(21));
  assert.deepEqual(browser.socket.takeSent(), [{ type: "subscribe", topic: "user.42", offset: 17, epoch: "e1" }]);
  const missed = [18, 19, 20, 21, 22].map((offset) => message(offset));
  browser.socket.frames(subscribed("user.42", { offset: 17, recovered: true }), ...missed);
  assert.deepEqual(heard, ["resync", 17, 18, 19, 20, 21, 22]);
});

test("a gap that asking does not fill is a resync, not a question without end", () => {
  const { browser, heard } = opened();
  browser.socket.frames(message(18));
  browser.socket.frames(subscribed("user.42", { offset: 16, recovered: true }), message(18), message(19));
  assert.equal(browser.socket.takeSent().length, 1);
  assert.deepEqual(heard, ["resync", "resync", 18, 19]);
  browser.socket.frames(message(21));
  assert.equal(browser.socket.takeSent().length, 1);
});

test("a gap that cannot be filled is a resync", () => {
  const { browser, heard } = opened();
  browser.socket.frames(message(500), subscribed("user.42", { offset: 500 }), message(501));
  assert.deepEqual(heard, ["resync", "resync", 501]);
});

test("the answer to a question that was overtaken by a resync does not bring old messages back", () => {
  const { browser, heard } = opened();
  browser.socket.frames(message(20), subscribed("user.42", { offset: 30 }), message(31));
  const missed = [17, 30, 31, 32].map((offset) => message(offset));
  browser.socket.frames(subscribed("user.42", { offset: 16, recovered: true }), ...missed);
  assert.deepEqual(heard, ["resync", "resync", 31, 32]);
});

test("a message without an offset is handed on", () => {
  const { browser, heard } = opened();
  browser.socket.frames({ type: "message", topic: "user.42", data: "from a plain layer" });
  assert.deepEqual(heard, ["resync", "from a plain layer"]);
});

test("a subscription hears its topic and nothing else, from its resync on", () => {
  const { browser, heard, own } = subscribedToNews();
  browser.socket.frames(message(17), news(6), message(1, "news.other"), news(7));
  assert.deepEqual(heard, ["resync", 6, 7]);
  assert.deepEqual(own, ["resync", 17]);
});

test("what is subscribed before the connection stands is asked for with its hello", () => {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  connection.subscribe(NEWS);
  connection.subscribe("user.42");
  browser.socket.hello();
  assert.deepEqual(browser.socket.sent, [{ type: "subscribe", topic: NEWS }]);
});

test("each topic comes back from its own position", () => {
  const { browser, heard } = subscribedToNews();
  browser.socket.frames(news(6));
  reconnected(browser);
  assert.deepEqual(browser.socket.sent, [{ type: "subscribe", topic: NEWS, offset: 6, epoch: "e1" }]);
  browser.socket.frames(subscribed(NEWS, { offset: 6, recovered: true }), news(7));
  assert.deepEqual(heard, ["resync", 6, 7]);
});

test("a second subscription begins with a resync of its own, and the topic stays until the last has gone", async () => {
  const { browser, connection, subscription, heard } = subscribedToNews();
  const second = connection.subscribe(NEWS);
  const heardToo = hear(second);
  await null;
  browser.socket.frames(news(6));
  subscription.unsubscribe();
  subscription.unsubscribe();
  browser.socket.frames(news(7));
  assert.deepEqual(browser.socket.takeSent(), []);
  second.unsubscribe();
  assert.deepEqual(browser.socket.takeSent(), [{ type: "unsubscribe", topic: NEWS }]);
  browser.socket.frames(news(8), { type: "unsubscribed", topic: NEWS });
  assert.deepEqual([heard, heardToo], [["resync", 6], ["resync", 6, 7]]);
});

test("one that subscribes while the connection is lost begins with a resync, though the others missed nothing", () => {
  const { browser, connection, heard } = subscribedToNews();
  browser.socket.lost();
  const late = hear(connection.subscribe(NEWS));
  browser.clock.pass(500);
  browser.socket.hello({}, { offset: 16, recovered: true });
  browser.socket.frames(subscribed(NEWS, { offset: 5, recovered: true }), news(6));
  assert.deepEqual([heard, late], [["resync", 6], ["resync", 6]]);
});

test("a topic that is left and taken again starts anew", () => {
  const { browser, connection, subscription } = subscribedToNews();
  subscription.unsubscribe();
  const again = hear(connection.subscribe(NEWS));
  browser.socket.frames({ type: "unsubscribed", topic: NEWS }, subscribed(NEWS, { offset: 9 }), news(10));
  assert.deepEqual(again, ["resync", 10]);
  assert.deepEqual(browser.socket.takeSent().at(-1), { type: "subscribe", topic: NEWS });
});

test("a refusal goes to its subscription and is not asked for again; to the connection if nobody there listens", () => {
  const { browser, connection, heard } = opened();
  const refused = hear(connection.subscribe("user.7"));
  const complaint = { type: "error", code: "forbidden", detail: "not yours", topic: "user.7" };
  browser.socket.frames(complaint);
  assert.deepEqual([refused, heard], [["forbidden"], ["resync"]]);
  reconnected(browser);
  assert.deepEqual(browser.socket.sent, []);
  connection.subscribe("user.8");
  browser.socket.frames({ ...complaint, topic: "user.8" });
  assert.deepEqual(heard, ["resync", "forbidden"]);
});

test("acknowledgements are gathered: one a second and topic, the last", () => {
  const { browser, subscription } = subscribedToNews();
  subscription.on("message", () => subscription.ack());
  browser.socket.frames(news(6), news(7), news(8));
  assert.deepEqual(browser.socket.takeSent(), []);
  browser.clock.pass(1_000);
  assert.deepEqual(browser.socket.takeSent(), [{ type: "ack", topic: NEWS, offset: 8 }]);
  subscription.ack(6);
  subscription.ack(9);
  browser.clock.pass(1_000);
  assert.deepEqual(browser.socket.takeSent(), [{ type: "ack", topic: NEWS, offset: 6 }]);
});

test("what was not acknowledged in time is not after a reconnect, nor for a topic that is left", () => {
  const { browser, subscription } = subscribedToNews();
  browser.socket.frames(news(6));
  subscription.ack();
  reconnected(browser, subscribed(NEWS, { offset: 6, recovered: true }));
  subscription.ack();
  subscription.unsubscribe();
  browser.clock.pass(2_000);
  assert.deepEqual(
    browser.socket.sent.map(({ type }) => type),
    ["subscribe", "unsubscribe"],
  );
});

test("read() says whether it is on its way", () => {
  const { browser, connection } = opened();
  assert.equal(connection.read([1, 2]), true);
  assert.deepEqual(browser.socket.takeSent(), [{ type: "read", ids: [1, 2] }]);
  browser.socket.lost();
  assert.equal(connection.read([3]), false);
});

test("128 topics come back at a rate that the server does not call a flood", () => {
  const { browser, connection } = opened();
  const topics = Array.from({ length: 127 }, (_, number) => `news.${number}`);
  for (const topic of topics) connection.subscribe(topic);
  browser.clock.pass(10_000);
  assert.equal(browser.socket.takeSent().length, 127);
  browser.socket.lost();
  browser.clock.pass(500);
  browser.socket.hello();
  // The server's bucket, by its defaults: 100 at once, 20 a second.
  let [allowance, count] = [100, 0];
  for (let ms = 0; ms < 10_000; ms += 50) {
    const sent = browser.socket.takeSent().filter(({ type }) => type === "subscribe");
    count += sent.length;
    allowance = Math.min(100, allowance + 1) - sent.length;
    assert.ok(allowance >= 0);
    browser.clock.pass(50);
  }
  assert.equal(count, 127);
});
