/** When client.js connects, waits and gives up. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { backoffMs, CLOSE_CODES, isFinal, refusal } from "../../realtime/static/realtime/link.js";
import { fakeBrowser, message } from "./fakes.js";

/** A connection that has had its hello, and the names of what it emitted since. */
function opened(fields) {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  const states = [];
  connection.on("state", (state) => states.push(state));
  browser.socket.hello(fields);
  return { browser, connection, states };
}

test("it connects to /ws/ of the page's host, encrypted as the page is, with the subprotocol", () => {
  const browser = fakeBrowser();
  const { options, page } = browser;
  connect(options);
  assert.equal(browser.socket.url, "wss://shop.example/ws/");
  assert.deepEqual(browser.socket.protocols, ["signalbox.v1"]);
  page.location.href = "http://localhost:8000/";
  assert.equal(connect({ ...options, url: "/deep/ws/" }).url, "ws://localhost:8000/deep/ws/");
  assert.equal(connect({ ...options, url: "wss://live.example/ws/" }).url, "wss://live.example/ws/");
});

test("a URL that is none is refused at once", () => {
  assert.throws(() => connect({ ...fakeBrowser().options, url: "http://" }), TypeError);
});

test("it is open when the server has said hello, and not before", () => {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  browser.socket.readyState = 1;
  assert.equal(connection.state, "connecting");
  browser.socket.hello();
  assert.equal(connection.state, "open");
});

test("a server that accepts and never says hello is left and tried again", () => {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  browser.clock.pass(15_000);
  assert.equal(connection.state, "waiting");
  assert.equal(browser.socket.closedWith, 1000);
  browser.clock.pass(500);
  assert.equal(browser.sockets.length, 2);
});

test("a lost connection comes back by itself, after a wait", () => {
  const { browser, states } = opened();
  browser.socket.lost();
  assert.equal(browser.sockets.length, 1);
  browser.clock.pass(500);
  browser.socket.hello();
  assert.deepEqual(states, ["open", "waiting", "connecting", "open"]);
});

test("waits have full jitter: anywhere between nothing and a bound that doubles up to 20 s", () => {
  for (let attempt = 0; attempt < 2000; attempt = attempt * 2 + 1) {
    const bound = Math.min(20_000, 500 * 2 ** attempt);
    assert.equal(
      backoffMs(attempt, () => 0),
      0,
    );
    assert.equal(
      backoffMs(attempt, () => 0.5),
      bound / 2,
    );
    assert.ok(backoffMs(attempt, () => 0.999_999) < bound);
  }
});

test("each failure in a row waits longer, and a connection that lasted starts over", () => {
  const { browser } = opened();
  browser.random = 0.5;
  const waitMs = () => {
    const [before, start] = [browser.sockets.length, browser.clock.now()];
    while (browser.sockets.length === before) browser.clock.pass(1);
    return browser.clock.now() - start;
  };
  const waits = [];
  for (let failure = 0; failure < 8; failure += 1) {
    browser.socket.lost();
    waits.push(waitMs());
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);

  // A hello alone proves little: a server that closes at once must not be hammered.
  browser.socket.hello();
  browser.socket.lost();
  assert.equal(waitMs(), 10_000);
  browser.socket.hello();
  browser.clock.pass(20_000);
  browser.socket.lost();
  assert.equal(waitMs(), 250);
});

test("the client reconnects after codes below 4500, also after codes that it does not know, and after abnormal ends", () => {
  for (const code of [1000, 1001, 1006, 1011, 3000, 4499, ...Object.values(CLOSE_CODES).filter((code) => code < 4500)]) {
    const { browser, connection } = opened();
    browser.socket.lost(code);
    assert.equal(connection.state, "waiting", `after ${code}`);
  }
});

test("after codes from 4500, also unknown ones, the client does not reconnect until reconnect() is called", () => {
  for (const code of [4999, ...Object.values(CLOSE_CODES).filter((code) => code >= 4500)]) {
    const { browser, connection } = opened();
    browser.socket.lost(code);
    assert.equal(connection.state, "closed", `after ${code}`);
    browser.page.fire("online");
    browser.clock.pass(3_600_000);
    assert.equal(browser.sockets.length, 1);
    connection.reconnect();
    browser.socket.hello();
    assert.equal(connection.state, "open");
  }
});

test("a final close is an error event with its reason, then the state closed", () => {
  for (const [code, reason, expected] of [
    [CLOSE_CODES.UNAUTHORISED, "sign in first", { code: "unauthorised", detail: "sign in first" }],
    [CLOSE_CODES.TOO_MANY_CONNECTIONS, "", { code: "too_many_connections", detail: "this user has too many connections" }],
    [4599, "later", { code: "refused", detail: "later" }],
    [4599, "", { code: "refused", detail: "the server closed the connection with 4599" }],
  ]) {
    const browser = fakeBrowser();
    const connection = connect(browser.options);
    const heard = [];
    connection.on("error", (error) => heard.push(error));
    connection.on("state", (state) => heard.push(state));
    browser.socket.lost(code, reason);
    assert.deepEqual(heard, [expected, "closed"]);
  }
});

test("each final close code has a meaning, for servers that hand on no reason", () => {
  for (const code of Object.values(CLOSE_CODES).filter(isFinal)) assert.doesNotMatch(refusal(code).detail, /4\d{3}/);
});

test("a final close that nobody listens to is reported", () => {
  const browser = fakeBrowser();
  connect(browser.options);
  browser.socket.lost(CLOSE_CODES.UNAUTHORISED, "sign in first");
  assert.deepEqual(browser.reported, [{ code: "unauthorised", detail: "sign in first" }]);
});

test("a close that is not final is no error", () => {
  const { browser } = opened();
  browser.socket.lost(CLOSE_CODES.RESTART);
  assert.deepEqual(browser.reported, []);
});

test("the table of close codes is that of the server", () => {
  const python = readFileSync(new URL("../../realtime/protocol/close_codes.py", import.meta.url), "utf8");
  const table = [...python.matchAll(/^ {4}([A-Z_]+) = (\d{4})$/gm)].map(([, name, code]) => [name, Number(code)]);
  assert.ok(table.length >= 7);
  assert.deepEqual(CLOSE_CODES, Object.fromEntries(table));
  assert.match(python, /return self >= 4500/);
  assert.deepEqual([4499, 4500, 4999, 5000].map(isFinal), [false, true, true, false]);
});

test("close() ends it: no timer, no listening to the page, and it may be called twice", () => {
  const { browser, connection, states } = opened();
  connection.close();
  connection.close();
  assert.equal(browser.socket.closedWith, 1000);
  assert.deepEqual(states, ["open", "closed"]);
  assert.equal(browser.clock.pendingCount, 0);
  for (const name of ["online", "offline", "visibilitychange", "pagehide"]) browser.page.fire(name);
  browser.page.fire("pageshow", { persisted: true });
  assert.equal(browser.sockets.length, 1);
});

test("close() during the wait ends the wait", () => {
  const { browser, connection } = opened();
  browser.socket.lost();
  connection.close();
  browser.clock.pass(60_000);
  assert.equal(browser.sockets.length, 1);
});

test("what a former socket still says is ignored", () => {
  const { browser, connection } = opened();
  const former = browser.socket;
  former.lost();
  browser.clock.pass(500);
  browser.socket.hello();
  const heard = [];
  connection.on("message", (publication) => heard.push(publication));
  former.frames(message(1));
  former.lost(CLOSE_CODES.UNAUTHORISED);
  assert.equal(connection.state, "open");
  assert.deepEqual(heard, []);
});

test("reconnect() ends a wait, and leaves a connection that is open or on its way alone", () => {
  const { browser, connection } = opened();
  connection.reconnect();
  browser.socket.lost();
  connection.reconnect();
  connection.reconnect();
  assert.equal(browser.sockets.length, 2);
});

test("a wait that the server asked for is exactly that long, and only reconnect() cuts it short", () => {
  const { browser, connection } = opened();
  browser.socket.lost(CLOSE_CODES.RESTART, "retry_after=7.25");
  for (const event of ["online", "visibilitychange"]) browser.page.fire(event);
  browser.clock.pass(7_249);
  assert.equal(browser.sockets.length, 1);
  browser.clock.pass(1);
  assert.equal(browser.sockets.length, 2);
  browser.socket.hello();
  browser.socket.lost(CLOSE_CODES.RESTART, "retry_after=7.25");
  connection.reconnect();
  assert.equal(browser.sockets.length, 3);
});

test("what is no wait is none, and the longest is five minutes", () => {
  for (const [code, reason] of [
    [CLOSE_CODES.RESTART, "retry_after=soon"],
    [CLOSE_CODES.RESTART, "retry_after=-1"],
    [CLOSE_CODES.RESTART, ""],
    [1006, "retry_after=60"],
    [1012, "retry_after=60"],
  ]) {
    const { browser } = opened();
    browser.socket.lost(code, reason);
    browser.clock.pass(500);
    assert.equal(browser.sockets.length, 2, reason);
  }
  const { browser } = opened();
  browser.socket.lost(CLOSE_CODES.RESTART, "retry_after=86400");
  browser.clock.pass(300_000);
  assert.equal(browser.sockets.length, 2);
});

test("whom the other end does not understand tries again, but not soon", () => {
  for (const code of [1002, 1003, 1007, 1008, 1009, 1010]) {
    const { browser, connection } = opened();
    browser.random = 0.5;
    browser.socket.lost(code);
    assert.equal(connection.state, "waiting");
    browser.clock.pass(9_999);
    assert.equal(browser.sockets.length, 1);
    browser.clock.pass(1);
    assert.equal(browser.sockets.length, 2);
  }
});

test("trying at once because the page is looked at does not make the next wait shorter", () => {
  const { browser } = opened();
  for (let failure = 0; failure < 8; failure += 1) {
    browser.socket.lost();
    browser.page.fire("visibilitychange");
  }
  browser.socket.lost();
  const { length } = browser.sockets;
  browser.clock.pass(19_000);
  assert.equal(browser.sockets.length, length);
});

for (const event of ["online", "visibilitychange"]) {
  test(`a wait ends at once on ${event}`, () => {
    const { browser } = opened();
    browser.socket.lost();
    browser.page.fire(event);
    assert.equal(browser.sockets.length, 2);
    assert.equal(browser.clock.pendingCount, 1, "the wait's timer must be gone");
  });
}

test("a page that is hidden does not try at once", () => {
  const { browser } = opened();
  browser.socket.lost();
  browser.page.document.visibilityState = "hidden";
  browser.page.fire("visibilitychange");
  assert.equal(browser.sockets.length, 1);
});

for (const [away, back] of [
  ["pagehide", "pageshow"],
  ["freeze", "resume"],
]) {
  test(`a page that is put away (${away}) gives its socket up, and one that is taken out again connects`, () => {
    const { browser, connection } = opened();
    browser.page.fire(away);
    assert.equal(connection.state, "waiting");
    assert.equal(browser.socket.closedWith, 1000);
    assert.equal(browser.clock.pendingCount, 0);
    browser.page.fire(back);
    browser.socket.hello();
    assert.equal(connection.state, "open");
    browser.page.fire(back);
    assert.equal(browser.sockets.length, 2);
  });
}

test("a page that was told not to come back does not, when it is taken out again", () => {
  const { browser, connection } = opened();
  browser.socket.lost(CLOSE_CODES.UNAUTHORISED);
  browser.page.fire("pagehide");
  browser.page.fire("pageshow", { persisted: true });
  assert.equal(connection.state, "closed");
  assert.equal(browser.sockets.length, 1);
});

test("a server that takes the browser for another user is left alone", () => {
  const browser = fakeBrowser();
  const connection = connect({ ...browser.options, user: 7, SharedWorker: null });
  const heard = [];
  connection.on("error", ({ code }) => heard.push(code));
  connection.on("resync", () => heard.push("resync"));
  browser.socket.hello();
  assert.deepEqual([connection.state, heard], ["closed", ["other_user"]]);
});
