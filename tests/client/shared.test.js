/** Tabs of one user that share a connection, and what happens when the worker or a tab goes. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { CLOSE_CODES } from "../../realtime/static/realtime/link.js";
import { fakeTabs, message, settled, subscribed } from "./fakes.js";

const NEWS = "news.sport";
const news = (offset) => message(offset, NEWS);

function listen(source, names) {
  const heard = [];
  for (const name of names) source.on(name, (detail) => heard.push(detail?.offset ?? detail?.code ?? name));
  return heard;
}

/** One more tab: its browser, its connection and what the user's own topic brought it. */
async function open(tabs, fields) {
  const tab = tabs.tab(fields);
  tab.connection = connect(tab.options);
  tab.states = [];
  tab.connection.on("state", (state) => tab.states.push(state));
  tab.heard = listen(tab.connection, ["message", "resync", "error"]);
  tab.errors = [];
  tab.connection.on("error", (error) => tab.errors.push(error));
  await settled();
  return tab;
}

/** The server says these, and the tabs have heard it. */
async function say(tabs, ...frames) {
  tabs.socket.frames(...frames);
  await settled();
}

async function hello(tabs, position) {
  tabs.socket.hello({}, position);
  await settled();
}

/** Two tabs on one open connection at offset 16. */
async function twoTabs() {
  const tabs = fakeTabs();
  const first = await open(tabs);
  await hello(tabs, { offset: 16 });
  const second = await open(tabs);
  return { tabs, first, second };
}

test("two tabs have one connection, and each hears each message once, after a resync of its own", async () => {
  const { tabs, first, second } = await twoTabs();
  await say(tabs, message(17), message(18));
  assert.equal(tabs.sockets.length, 1);
  assert.deepEqual(first.heard, ["resync", 17, 18]);
  assert.deepEqual(second.heard, ["resync", 17, 18]);
  assert.deepEqual(first.states, ["open"]);
  assert.deepEqual([first.connection.state, second.connection.state], ["open", "open"]);
  assert.deepEqual([first.sockets, second.sockets], [[], []]);
});

test("another user's tab has a connection of its own, and so has one that names no user", async () => {
  const { tabs } = await twoTabs();
  await open(tabs, { user: 7 });
  assert.equal(tabs.workers.size, 2);
  const third = await open(tabs, { user: undefined });
  assert.deepEqual([tabs.workers.size, third.sockets.length], [2, 1]);
});

test("a lost connection is told to each tab, and what was recovered goes on silently in each", async () => {
  const { tabs, first, second } = await twoTabs();
  tabs.socket.lost();
  const late = await open(tabs);
  assert.deepEqual(late.connection.state, "connecting", "a new page has it try at once");
  await hello(tabs, { offset: 16, recovered: true });
  await say(tabs, message(17));
  assert.deepEqual([first.heard, second.heard], [["resync", 17], ["resync", 17]]);
  assert.deepEqual(late.heard, ["resync", 17], "its page may be older than what the connection missed nothing since");
  assert.deepEqual(first.states, ["open", "waiting", "connecting", "open"]);
});

test("what cannot be recovered is a resync in each", async () => {
  const { tabs, first, second } = await twoTabs();
  await say(tabs, subscribed("user.42", { offset: 90 }));
  assert.deepEqual([first.heard, second.heard], [["resync", "resync"], ["resync", "resync"]]);
});

test("a topic is subscribed once for all tabs, heard by those that asked, and left with the last of them", async () => {
  const { tabs, first, second } = await twoTabs();
  const one = first.connection.subscribe(NEWS);
  const heardByOne = listen(one, ["message", "resync"]);
  await settled();
  await say(tabs, subscribed(NEWS, { offset: 5 }), news(6));
  const two = second.connection.subscribe(NEWS);
  const heardByTwo = listen(two, ["message", "resync"]);
  await settled();
  await say(tabs, news(7));
  one.unsubscribe();
  await settled();
  await say(tabs, news(8));
  assert.deepEqual(heardByOne, ["resync", 6, 7]);
  assert.deepEqual(heardByTwo, ["resync", 7, 8]);
  assert.deepEqual(tabs.socket.takeSent().filter(({ type }) => type !== "ping"), [{ type: "subscribe", topic: NEWS }]);
  two.unsubscribe();
  await settled();
  assert.deepEqual(tabs.socket.takeSent(), [{ type: "unsubscribe", topic: NEWS }]);
});

test("a refusal is told to the tab that asked, and asking again asks again", async () => {
  const { tabs, first, second } = await twoTabs();
  const complaint = { type: "error", code: "forbidden", detail: "not yours", topic: "user.7" };
  const refused = listen(first.connection.subscribe("user.7"), ["error"]);
  await settled();
  await say(tabs, complaint);
  assert.deepEqual([refused, second.heard], [["forbidden"], ["resync"]]);
  first.connection.subscribe("user.7");
  await settled();
  assert.equal(tabs.socket.sent.filter(({ type }) => type === "subscribe").length, 2);
});

test("acknowledgements and read marks go over the one connection", async () => {
  const { tabs, first, second } = await twoTabs();
  const subscription = first.connection.subscribe(NEWS);
  await settled();
  await say(tabs, subscribed(NEWS), news(1));
  subscription.ack();
  assert.equal(second.connection.read([4]), true);
  await settled();
  tabs.clock.pass(1_000);
  assert.deepEqual(tabs.socket.sent.slice(-2), [
    { type: "read", ids: [4] },
    { type: "ack", topic: NEWS, offset: 1 },
  ]);
});

test("a tab that ends without a word is forgotten, and the others go on", async () => {
  const { tabs, first, second } = await twoTabs();
  const [lock] = tabs.locks.names;
  first.connection.subscribe(NEWS);
  await settled();
  tabs.locks.drop(lock);
  await settled();
  assert.deepEqual(tabs.socket.takeSent().at(-1), { type: "unsubscribe", topic: NEWS });
  await say(tabs, message(17));
  assert.deepEqual([first.heard, second.heard], [["resync"], ["resync", 17]]);
  assert.equal(tabs.sockets.length, 1);
});

for (const [away, back] of [
  ["pagehide", "pageshow"],
  ["freeze", "resume"],
]) {
  test(`a tab that is put away (${away}) leaves, and begins with a resync when it is back`, async () => {
    const { tabs, first, second } = await twoTabs();
    first.page.fire(away);
    await settled();
    await say(tabs, message(17));
    assert.equal(first.connection.state, "waiting");
    first.page.fire(back);
    await settled();
    await say(tabs, message(18));
    assert.deepEqual([first.heard, second.heard], [["resync", "resync", 18], ["resync", 17, 18]]);
    assert.equal(first.connection.state, "open");
  });
}

test("the last tab takes the connection with it, and the next brings it back", async () => {
  const { tabs, first, second } = await twoTabs();
  first.connection.close();
  second.page.fire("pagehide");
  await settled();
  assert.equal(tabs.socket.closedWith, 1000);
  assert.deepEqual(tabs.locks.names.length, 1, "only the worker's own lock is held");
  second.page.fire("pageshow");
  await settled();
  await hello(tabs, { offset: 16, recovered: true });
  await say(tabs, message(17));
  assert.deepEqual([first.heard, second.heard], [["resync"], ["resync", "resync", 17]]);
  assert.equal(first.connection.state, "closed");
});

test("a final refusal closes it for all tabs, and a page that is opened later tries again for all", async () => {
  const { tabs, first, second } = await twoTabs();
  tabs.socket.lost(CLOSE_CODES.UNAUTHORISED);
  await settled();
  assert.equal(first.connection.state, "closed");
  assert.equal(tabs.sockets.length, 1);
  assert.deepEqual([first.heard, second.heard], [["resync", "unauthorised"], ["resync", "unauthorised"]]);
  await open(tabs);
  await hello(tabs, { offset: 16, recovered: true });
  assert.equal(first.connection.state, "open");
});

test("a tab that is looked at has the one connection asked whether it lives", async () => {
  const { tabs, second } = await twoTabs();
  tabs.socket.frames({ type: "pong" });
  tabs.socket.takeSent();
  second.page.fire("visibilitychange");
  await settled();
  assert.deepEqual(tabs.socket.takeSent(), [{ type: "ping" }]);
});

test("when the worker is lost, each tab goes on with a connection of its own", async () => {
  const { tabs, first } = await twoTabs();
  const heard = listen(first.connection.subscribe(NEWS), ["message", "resync"]);
  await settled();
  await say(tabs, subscribed(NEWS), news(1));
  // Made by the first tab, after that had its own lock.
  tabs.locks.drop(tabs.locks.names[1]);
  await settled();
  assert.equal(first.connection.state, "connecting");
  first.socket.hello({}, { offset: 17 });
  first.socket.frames(subscribed(NEWS, { offset: 2 }), news(3), message(18));
  assert.deepEqual([first.heard, heard], [["resync", "not_shared", "resync", 18], ["resync", 1, "resync", 3]]);
  await say(tabs, message(18));
  assert.equal(first.heard.length, 4, "what the lost worker still said is not heard");
});

for (const [mode, reason] of [
  ["throw", /not allowed/],
  ["fail", /could not be loaded/],
  ["stay silent", /did not answer within 5 s/],
]) {
  test(`a browser whose workers ${mode} gives the tab a connection of its own, and says why`, async () => {
    const tabs = fakeTabs();
    tabs.mode = mode;
    const tab = await open(tabs);
    tab.clock.pass(5_000);
    assert.equal(tab.sockets.length, 1);
    tab.socket.hello();
    assert.deepEqual([tab.connection.state, tab.heard], ["open", ["not_shared", "resync"]]);
    assert.match(tab.errors[0].detail, reason);
    await settled();
    assert.deepEqual(tabs.locks.names, []);
  });
}

test("a browser without shared workers or locks gives each tab a connection of its own", async () => {
  const tabs = fakeTabs();
  const tab = await open(tabs, { SharedWorker: null });
  const other = await open(tabs, { locks: null });
  assert.deepEqual([tab.sockets.length, other.sockets.length], [1, 1]);
});

test("a tab that is closed before the worker has answered is not attached later", async () => {
  const { tabs } = await twoTabs();
  const tab = tabs.tab();
  connect(tab.options).close();
  await settled();
  assert.equal(tabs.locks.names.length, 3, "of the worker and of the two tabs");
  tab.clock.pass(5_000);
  assert.equal(tab.sockets.length, 0);
});
