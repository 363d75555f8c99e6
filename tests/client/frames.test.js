/** What client.js makes of frames, of silence and of listeners that fail. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { fakeBrowser, message } from "./fakes.js";

/** An open connection and all it emits from then on, as [event, detail]. */
function listening(fields) {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  const heard = [];
  for (const name of ["message", "resync", "error"]) {
    connection.on(name, (detail) => heard.push(detail === undefined ? [name] : [name, detail]));
  }
  browser.socket.hello(fields);
  return { browser, connection, heard };
}

test("a frame of several objects is several messages, in order", () => {
  const { browser, heard } = listening();
  heard.length = 0;
  browser.socket.frames(message(1), message(2), message(3));
  assert.deepEqual(
    heard.map(([name, { topic, offset, data }]) => [name, topic, offset, data.id]),
    [1, 2, 3].map((offset) => ["message", "user.42", offset, offset]),
  );
});

test("what cannot be read is told, and the objects around it arrive", () => {
  const { browser, connection, heard } = listening();
  heard.length = 0;
  browser.socket.text(`${JSON.stringify(message(1))}\n{"type":\n${JSON.stringify(message(2))}`);
  assert.deepEqual(
    heard.map(([name]) => name),
    ["message", "error", "message"],
  );
  assert.equal(heard[1][1].code, "unreadable_frame");
  assert.equal(connection.state, "open");
});

test("types it does not know, and JSON that is no object, are ignored", () => {
  const { browser, heard } = listening();
  heard.length = 0;
  browser.socket.frames({ type: "fireworks" }, null, 17, "hello", [], {});
  assert.deepEqual(heard, []);
});

test("the server's complaints are told and close nothing", () => {
  const { browser, connection, heard } = listening();
  browser.socket.frames({ type: "error", code: "forbidden", topic: "user.7", detail: "not yours" });
  assert.deepEqual(heard.at(-1), ["error", { code: "forbidden", topic: "user.7", detail: "not yours" }]);
  assert.equal(connection.state, "open");
});

test("a complaint that nobody listens to is reported", () => {
  const browser = fakeBrowser();
  connect(browser.options);
  browser.socket.text("not JSON");
  assert.deepEqual(
    browser.reported.map(({ code }) => code),
    ["unreadable_frame"],
  );
});

test("a listener that throws is reported, and disturbs neither the others nor the connection", () => {
  const { browser, connection, heard } = listening();
  const stop = connection.on("message", () => {
    throw new Error("mine");
  });
  const after = [];
  connection.on("message", ({ offset }) => after.push(offset));
  browser.socket.frames(message(1), message(2));
  assert.deepEqual(after, [1, 2]);
  assert.deepEqual(
    browser.reported.map((error) => error.message),
    ["mine", "mine"],
  );
  stop();
  browser.socket.frames(message(3));
  assert.equal(browser.reported.length, 2);
  assert.equal(heard.filter(([name]) => name === "message").length, 3);
  assert.equal(connection.state, "open");
});

test("a listener that closes the connection hears no more of the frame", () => {
  const { browser, connection } = listening();
  const offsets = [];
  connection.on("message", ({ offset }) => {
    offsets.push(offset);
    connection.close();
  });
  browser.socket.frames(message(1), message(2));
  assert.deepEqual(offsets, [1]);
});

test("a listener that closes the connection as it opens hears no resync", () => {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  const heard = [];
  connection.on("state", (state) => state === "open" && connection.close());
  connection.on("resync", () => heard.push("resync"));
  browser.socket.hello();
  assert.deepEqual(heard, []);
  assert.equal(browser.clock.pendingCount, 0);
});

test("an event that does not exist cannot be listened to", () => {
  const { connection } = listening();
  assert.throws(() => connection.on("mesage", () => {}), /no event "mesage": there are message, resync, state, signedout, error/);
});

test("it pings after ping_seconds of silence, and only then", () => {
  const { browser } = listening({ ping_seconds: 10 });
  browser.clock.pass(9_000);
  browser.socket.frames(message(1));
  browser.clock.pass(9_999);
  assert.deepEqual(browser.socket.sent, []);
  browser.clock.pass(1);
  assert.deepEqual(browser.socket.sent, [{ type: "ping" }]);
  browser.socket.frames({ type: "pong" });
  browser.clock.pass(9_999);
  assert.equal(browser.socket.sent.length, 1);
  browser.clock.pass(1);
  assert.equal(browser.socket.sent.length, 2);
});

test("no answer to a ping within 10 s is a dead connection, which is replaced", () => {
  const { browser, connection } = listening();
  browser.clock.pass(25_000 + 9_999);
  assert.equal(connection.state, "open");
  browser.clock.pass(1);
  assert.equal(connection.state, "waiting");
  assert.equal(browser.socket.closedWith, 1000);
  browser.clock.pass(500);
  assert.equal(browser.sockets.length, 2);
});

test("anything the server says is an answer to a ping", () => {
  const { browser, connection } = listening();
  browser.clock.pass(30_000);
  browser.socket.frames(message(1));
  browser.clock.pass(24_000);
  assert.equal(connection.state, "open");
});

test("a page whose timers are held back does not call a healthy connection dead", () => {
  const { browser, connection } = listening();
  browser.clock.passAsleep(120_000);
  browser.clock.pass(1);
  assert.equal(connection.state, "open");
  assert.deepEqual(browser.socket.sent, [{ type: "ping" }]);
});

for (const event of ["online", "offline", "visibilitychange"]) {
  test(`on ${event} an open connection is asked whether it lives, with one deadline however often`, () => {
    const { browser, connection } = listening();
    for (let times = 0; times < 10; times += 1) {
      browser.page.fire(event);
      browser.clock.pass(999);
    }
    assert.deepEqual(browser.socket.sent, [{ type: "ping" }]);
    assert.equal(connection.state, "open");
    browser.clock.pass(10);
    assert.equal(connection.state, "waiting");
  });
}

test("a connection never has more than one timer", () => {
  const { browser } = listening();
  for (let step = 0; step < 200; step += 1) {
    assert.equal(browser.clock.pendingCount, 1);
    if (step % 7 === 0) browser.page.fire("online");
    if (step % 11 === 0) browser.socket.lost();
    else if (step % 3 === 0) browser.socket.hello();
    browser.clock.pass(1_000);
  }
});
