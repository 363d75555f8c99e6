/** Filtered subscriptions of tabs that share a connection: each tab has its own. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { fakeTabs, settled } from "./fakes.js";

const FAMILY = "vehicles.*";
const WEST = { bbox: [5.9, 45.8, 7, 47.8] };
const EAST = { bbox: [9, 45.8, 10.5, 47.8] };

const answered = (view) => ({ type: "subscribed", topic: FAMILY, view });
const batch = (view, number, name, ...lines) => [
  { type: "view", view, number, batch: name, complete: true },
  { type: "position", topic: "vehicles.sbb", offset: 16, epoch: "e1" },
  ...lines,
];
const item = (key, offset) => ({ type: "message", topic: "vehicles.sbb", offset, key, data: {} });

/** One more tab with a view; `heard` is what changed in it. */
async function open(tabs, filter) {
  const tab = tabs.tab();
  tab.connection = connect(tab.options);
  tab.live = tab.connection.subscribe(FAMILY, { filter });
  tab.heard = [];
  tab.live.on("change", ({ items, left }) => {
    for (const { keys } of left) tab.heard.push(...keys.map((key) => `-${key}`));
    tab.heard.push(...items.map(({ key, offset }) => `${key}@${offset}`));
  });
  tab.live.on("error", ({ code }) => tab.heard.push(code));
  await settled();
  return tab;
}

async function say(tabs, ...frames) {
  for (const frame of frames) tabs.socket.frames(...[frame].flat());
  await settled();
}

const asked = (tabs) => tabs.socket.takeSent().filter(({ type }) => type !== "ping");

/** Two tabs that show the same family, each with its own filter and one item. */
async function twoTabs() {
  const tabs = fakeTabs();
  const first = await open(tabs, WEST);
  tabs.socket.hello();
  const second = await open(tabs, EAST);
  await say(tabs, answered("v1"), answered("v2"), batch("v1", 1, "reset", item("a", 3)), batch("v2", 1, "reset", item("z", 4)));
  return { tabs, first, second };
}

const shown = ({ live }) => [...live.items.values()].map(({ key, offset }) => `${key}@${offset}`);

test("each tab has its own view on the one connection, with an id of its own", async () => {
  const { tabs, first, second } = await twoTabs();
  assert.equal(tabs.sockets.length, 1);
  assert.deepEqual(asked(tabs), [
    { type: "subscribe", topic: FAMILY, view: "v1", number: 1, filter: WEST },
    { type: "subscribe", topic: FAMILY, view: "v2", number: 1, filter: EAST },
  ]);
  await say(tabs, batch("v2", 1, "changes", item("z", 5)));
  assert.deepEqual([first.heard, second.heard], [["a@3"], ["z@4", "z@5"]]);
  second.live.setFilter(WEST);
  await settled();
  tabs.clock.pass(100);
  assert.deepEqual(asked(tabs), [{ type: "filter", view: "v2", number: 2, filter: WEST }]);
});

test("a lost connection resumes the views of all tabs, each from its own positions", async () => {
  const { tabs, first, second } = await twoTabs();
  tabs.socket.lost();
  tabs.clock.pass(500);
  tabs.socket.hello();
  await settled();
  const positions = { "vehicles.sbb": [16, "e1"] };
  assert.deepEqual(asked(tabs), [
    { type: "subscribe", topic: FAMILY, view: "v1", number: 2, filter: WEST, positions },
    { type: "subscribe", topic: FAMILY, view: "v2", number: 2, filter: EAST, positions },
  ]);
  const same = { type: "same", topic: "vehicles.sbb", keys: ["a"] };
  await say(tabs, answered("v1"), batch("v1", 2, "reset", same), answered("v2"), batch("v2", 2, "reset"));
  assert.deepEqual([first.heard, second.heard], [["a@3"], ["z@4", "-z"]]);
});

test("if the copy of a tab is wrong, only its own view is subscribed again", async () => {
  const { tabs, second } = await twoTabs();
  asked(tabs);
  await say(tabs, batch("v2", 1, "reset", { type: "same", topic: "vehicles.sbb", keys: ["y"] }));
  assert.deepEqual(asked(tabs).map(({ type, view }) => [type, view]), [["unsubscribe", "v2"], ["subscribe", "v2"]]);
  await say(tabs, answered("v2"), batch("v2", 2, "reset", item("y", 5)));
  assert.deepEqual(shown(second), ["y@5"]);
});

test("when a tab ends without notice, or unsubscribes, its views end and no others", async () => {
  const { tabs, second } = await twoTabs();
  asked(tabs);
  tabs.locks.drop(tabs.locks.names[0]);
  await settled();
  assert.deepEqual(asked(tabs), [{ type: "unsubscribe", topic: FAMILY, view: "v1" }]);
  await say(tabs, batch("v1", 1, "changes", item("a", 5)), batch("v2", 1, "changes", item("z", 5)));
  assert.deepEqual(shown(second), ["z@5"]);
  second.live.unsubscribe();
  await settled();
  assert.deepEqual(asked(tabs), [{ type: "unsubscribe", topic: FAMILY, view: "v2" }]);
});

for (const [away, back] of [
  ["pagehide", "pageshow"],
  ["freeze", "resume"],
]) {
  test(`a tab that is put away (${away}) leaves its views, and does not redraw unchanged items when it is back`, async () => {
    const { tabs, first } = await twoTabs();
    asked(tabs);
    // In the middle of a snapshot of which the tab will not see the end.
    const [header, ...lines] = batch("v1", 1, "reset", item("b", 5));
    await say(tabs, [{ ...header, complete: false }, ...lines]);
    first.page.fire(away);
    await settled();
    assert.deepEqual(asked(tabs), [{ type: "unsubscribe", topic: FAMILY, view: "v1" }]);
    first.live.setFilter(EAST);
    first.page.fire(back);
    await settled();
    assert.deepEqual(asked(tabs), [{ type: "subscribe", topic: FAMILY, view: "v3", number: 1, filter: EAST }]);
    await say(tabs, answered("v3"), batch("v3", 1, "reset", item("a", 3), item("c", 6)));
    assert.deepEqual(first.heard, ["a@3", "b@5", "-b", "c@6"]);
  });
}

test("only the tab whose view is refused gets the error, and a new filter subscribes again", async () => {
  const { tabs, first, second } = await twoTabs();
  asked(tabs);
  await say(tabs, { type: "unsubscribed", topic: FAMILY, view: "v2", code: "forbidden", detail: "not yours" });
  assert.deepEqual([first.heard, second.heard], [["a@3"], ["z@4", "-z", "forbidden"]]);
  second.live.setFilter(WEST);
  await settled();
  assert.deepEqual(asked(tabs), [{ type: "subscribe", topic: FAMILY, view: "v3", number: 1, filter: WEST }]);
});

test("when the worker is lost, the tab subscribes its view on a connection of its own", async () => {
  const { tabs, first } = await twoTabs();
  tabs.locks.drop(tabs.locks.names[1]);
  await settled();
  first.socket.hello();
  assert.deepEqual(first.socket.takeSent(), [{ type: "subscribe", topic: FAMILY, view: "v1", number: 1, filter: WEST }]);
  first.socket.frames(answered("v1"));
  first.socket.frames(...batch("v1", 1, "reset", item("a", 3), item("b", 4)));
  assert.deepEqual(first.heard, ["a@3", "b@4"]);
});
