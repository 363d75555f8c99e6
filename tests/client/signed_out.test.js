/** What a page is told when its user is signed in no more, or may not hear a topic any more. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { CLOSE_CODES } from "../../realtime/static/realtime/link.js";
import { fakeBrowser, fakeTabs, message, settled, subscribed } from "./fakes.js";

const NEWS = "news.sport";
const gone = { type: "unsubscribed", topic: NEWS, code: "forbidden", detail: "not any more" };

/** What a connection says of itself, in order. */
function listen(connection) {
  const heard = [];
  connection.on("state", (state) => heard.push(state));
  connection.on("error", ({ code }) => heard.push(`error ${code}`));
  connection.on("signedout", ({ code }) => heard.push(`signedout ${code}`));
  return heard;
}

function opened(fields) {
  const browser = fakeBrowser();
  const connection = connect({ ...browser.options, ...fields });
  browser.socket.hello();
  return { browser, connection, heard: listen(connection) };
}

test("signed out, switched off, refused as nobody: the page is told, after the state", () => {
  for (const name of ["SIGNED_OUT", "DEACTIVATED", "UNAUTHORISED"]) {
    const { browser, heard } = opened();
    browser.socket.lost(CLOSE_CODES[name]);
    const code = name.toLowerCase();
    assert.deepEqual(heard, [`error ${code}`, "closed", `signedout ${code}`]);
    browser.clock.pass(3_600_000);
    assert.equal(browser.sockets.length, 1);
  }
});

test("another end for good is not a sign-out", () => {
  for (const name of ["DISCONNECTED", "TOO_MANY_CONNECTIONS", "PROTOCOL_ERROR", "RATE_LIMITED", "FORBIDDEN_ORIGIN"]) {
    const { browser, heard } = opened();
    browser.socket.lost(CLOSE_CODES[name]);
    assert.deepEqual(heard, [`error ${name.toLowerCase()}`, "closed"]);
  }
});

test("a connection that has to show its session anew comes back when it was told to, and may be signed out then", () => {
  for (const name of ["AGED", "PASSWORD_CHANGED", "SESSION_ENDED"]) {
    const { browser, heard } = opened();
    browser.socket.lost(CLOSE_CODES[name], "retry_after=1.50");
    browser.clock.pass(1_499);
    assert.equal(browser.sockets.length, 1);
    browser.clock.pass(1);
    assert.equal(browser.sockets.length, 2);
    browser.socket.lost(CLOSE_CODES.UNAUTHORISED);
    assert.deepEqual(heard, ["waiting", "connecting", "error unauthorised", "closed", "signedout unauthorised"]);
  }
});

test("an old connection resumes where it was", () => {
  const { browser } = opened();
  browser.socket.frames(message(1), message(2));
  browser.socket.lost(CLOSE_CODES.AGED, "retry_after=0.20");
  browser.clock.pass(200);
  assert.equal(new URL(browser.socket.url).searchParams.get("offset"), "2");
});

test("who signs in as somebody else signs the former user's pages out", () => {
  const { browser, heard } = opened({ user: 42 });
  browser.socket.lost(CLOSE_CODES.SESSION_ENDED, "retry_after=1.00");
  browser.clock.pass(1_000);
  browser.socket.hello({ user_id: 7 });
  assert.deepEqual(heard.slice(-3), ["error other_user", "closed", "signedout other_user"]);
  assert.equal(browser.socket.closedWith, 1000);
});

test("a sign-out that was undone is not told again by a later end", () => {
  const { browser, connection, heard } = opened();
  browser.socket.lost(CLOSE_CODES.SIGNED_OUT);
  connection.reconnect();
  browser.socket.hello();
  connection.close();
  assert.deepEqual(heard.filter((each) => each.startsWith("signedout")), ["signedout signed_out"]);
});

test("all tabs are told, and a page that comes later asks anew for all of them", async () => {
  const tabs = fakeTabs();
  const heard = [];
  for (const _ of [1, 2]) {
    const connection = connect(tabs.tab().options);
    await settled();
    if (tabs.sockets.length === 1 && tabs.socket.readyState === 0) tabs.socket.hello();
    heard.push(listen(connection));
    await settled();
  }
  tabs.socket.lost(CLOSE_CODES.SIGNED_OUT);
  await settled();
  for (const each of heard) assert.deepEqual(each.slice(-2), ["closed", "signedout signed_out"]);
  connect(tabs.tab().options);
  await settled();
  assert.equal(tabs.sockets.length, 2);
  tabs.socket.hello();
  await settled();
  for (const each of heard) assert.deepEqual(each.slice(-2), ["connecting", "open"]);
});

test("a topic that the user may not hear any more is an error of its subscription, and is not asked for again", () => {
  const { browser, connection } = opened();
  const subscription = connection.subscribe(NEWS);
  const heard = [];
  for (const name of ["resync", "message", "error"]) subscription.on(name, (detail) => heard.push(detail.code ?? name));
  browser.socket.frames(subscribed(NEWS, { offset: 5 }));
  browser.socket.frames(gone, message(6, NEWS));
  assert.deepEqual(heard, ["resync", "forbidden"]);
  browser.socket.lost();
  browser.clock.pass(500);
  browser.socket.hello();
  assert.deepEqual(browser.socket.takeSent(), []);
  // Granted again.
  const again = connection.subscribe(NEWS);
  again.on("resync", () => heard.push("again"));
  assert.deepEqual(browser.socket.takeSent(), [{ type: "subscribe", topic: NEWS }]);
  browser.socket.frames(subscribed(NEWS, { offset: 9 }));
  assert.equal(heard.at(-1), "again");
});

test("a topic that is lost is lost in each tab that heard it, and in no other", async () => {
  const tabs = fakeTabs();
  const connections = [];
  for (const _ of [1, 2, 3]) {
    connections.push(connect(tabs.tab().options));
    await settled();
    if (tabs.socket.readyState === 0) tabs.socket.hello();
    await settled();
  }
  const heard = [[], [], []];
  connections[2].on("error", ({ code }) => heard[2].push(code));
  for (const index of [0, 1]) connections[index].subscribe(NEWS).on("error", ({ code }) => heard[index].push(code));
  await settled();
  tabs.socket.frames(subscribed(NEWS));
  await settled();
  tabs.socket.frames(gone);
  await settled();
  assert.deepEqual(heard, [["forbidden"], ["forbidden"], []]);
  tabs.socket.takeSent();
  connections[0].subscribe(NEWS);
  await settled();
  assert.deepEqual(tabs.socket.takeSent(), [{ type: "subscribe", topic: NEWS }]);
});
