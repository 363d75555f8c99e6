/** Filtered subscriptions: what the server is asked, and what a page gets of its answers. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { fakeBrowser, message as plain, subscribed as plainSubscribed } from "./fakes.js";

const FAMILY = "vehicles.*";
const SBB = "vehicles.sbb";
const WEST = { bbox: [5.9, 45.8, 7, 47.8], zoom: 9 };
const EAST = { bbox: [9, 45.8, 10.5, 47.8], zoom: 9 };

const answered = (view = "v1") => ({ type: "subscribed", topic: FAMILY, view });
const position = (offset, epoch = "e1", topic = SBB) => ({ type: "position", topic, offset, epoch });
const item = (key, offset, topic = SBB) => ({ type: "message", topic, offset, key, data: { at: offset } });
const left = (...keys) => ({ type: "left", topic: SBB, keys });
const same = (...keys) => ({ type: "same", topic: SBB, keys });
/** A frame of a batch; complete unless `part` is called instead. */
const frame = (batch, number, lines, fields = {}) => [
  { type: "view", view: "v1", number, batch, complete: true, ...fields },
  ...lines,
];
const reset = (number, ...lines) => frame("reset", number, lines);
const entered = (number, ...lines) => frame("entered", number, lines);
const changes = (number, ...lines) => frame("changes", number, lines);
const part = ([header, ...lines]) => [{ ...header, complete: false }, ...lines];

const NAMES = ["snapshot", "message", "left", "change", "error"];

/** The events of a live subscription, in short. */
function hear(live) {
  const heard = [];
  const shown = ({ topic, key, offset }) => (topic === SBB ? "" : `${topic} `) + `${key}@${offset}`;
  const shorten = {
    snapshot: ({ items, isReset }) => [isReset ? "reset" : "entered", ...items.map(shown)],
    message: (detail) => ["message", shown(detail)],
    left: ({ keys }) => ["left", ...keys],
    change: ({ items, left }) => ["change", ...left.flatMap(({ keys }) => keys.map((key) => `-${key}`)), ...items.map(shown)],
    error: ({ code }) => ["error", code],
  };
  for (const name of NAMES) live.on(name, (detail) => heard.push(shorten[name](detail).join(" ")));
  return heard;
}

/** An open connection with a view of the west; `say` is the server. */
function opened() {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  browser.socket.hello();
  const live = connection.subscribe(FAMILY, { filter: WEST });
  const say = (...frames) => frames.forEach((objects) => browser.socket.frames(...[objects].flat()));
  return { browser, connection, live, heard: hear(live), say };
}

/** As `opened()`, after the first snapshot: two trams. */
function shown() {
  const stage = opened();
  stage.say(answered(), reset(1, position(16), item("a", 3), item("b", 16)));
  stage.browser.socket.takeSent();
  stage.heard.length = 0;
  return stage;
}

const keys = (live) => [...live.items.values()].map(({ key, offset }) => `${key}@${offset}`);

function reconnected({ browser, connection }) {
  browser.socket.lost();
  connection.reconnect();
  browser.socket.hello();
  return browser.socket.takeSent();
}

test("a filter makes the subscription a view, with an id and a number", () => {
  const { browser, connection, live } = opened();
  assert.deepEqual(browser.socket.takeSent(), [
    { type: "subscribe", topic: FAMILY, view: "v1", number: 1, filter: WEST },
  ]);
  assert.deepEqual([live.topic, live.filter], [FAMILY, WEST]);
  connection.subscribe(FAMILY, { filter: {} });
  assert.deepEqual(browser.socket.takeSent(), [{ type: "subscribe", topic: FAMILY, view: "v2", number: 1, filter: {} }]);
});

test("a view that is made before the connection is open is subscribed when it opens", () => {
  const browser = fakeBrowser();
  const live = connect(browser.options).subscribe(FAMILY, { filter: WEST });
  live.setFilter(EAST);
  browser.socket.hello();
  assert.deepEqual(browser.socket.takeSent().map(({ filter }) => filter), [EAST]);
});

test("a filter is an object, and a later change of it is not sent", () => {
  const { browser, connection, live } = shown();
  for (const wrong of [null, "west", 7, [1, 2, 3, 4]]) {
    assert.throws(() => connection.subscribe(FAMILY, { filter: wrong }), /filter must be an object/);
    assert.throws(() => live.setFilter(wrong), /filter must be an object/);
  }
  const mine = { bbox: [1, 2, 3, 4] };
  live.setFilter(mine);
  mine.bbox[0] = 0;
  browser.clock.pass(100);
  assert.deepEqual(browser.socket.takeSent()[0].filter, { bbox: [1, 2, 3, 4] });
});

test("the first batch is a snapshot, and the items are there before its event", () => {
  const { live, say } = opened();
  const seen = [];
  live.on("change", () => seen.push(live.items.size));
  live.on("snapshot", ({ items, isReset }) => seen.push([items, isReset]));
  const { items } = live;
  say(answered(), reset(1, position(16), item("a", 3)));
  assert.deepEqual(seen, [1, [[{ topic: SBB, key: "a", offset: 3, data: { at: 3 } }], true]]);
  assert.equal(live.items, items, "it is always the same Map");
  assert.deepEqual([...items.keys()], [`${SBB} a`]);
});

test("a snapshot in parts is several changes, and one snapshot at the end", () => {
  const { heard, say } = opened();
  say(answered(), part(reset(1, position(16), item("a", 3))), part(reset(1, item("b", 4))), reset(1, item("c", 5)));
  assert.deepEqual(heard, ["change a@3", "change b@4", "change c@5", "reset a@3 b@4 c@5"]);
});

test("later publications are messages, and one change for each frame", () => {
  const { heard, live, say } = shown();
  say(changes(1, left("a"), item("b", 17), item("c", 18)));
  assert.deepEqual(heard, ["left a", "message b@17", "message c@18", "change -a b@17 c@18"]);
  assert.deepEqual(keys(live), ["b@17", "c@18"]);
  say(changes(1, { ...item("b", 19), removed: true, data: null }));
  assert.deepEqual(heard.slice(4), ["left b", "change -b"]);
});

test("only the frame that begins with the header belongs to the view", () => {
  const { connection, browser, heard, say } = shown();
  const offsets = [];
  const news = connection.subscribe("news.sport");
  news.on("message", ({ offset }) => offsets.push(offset));
  say(plainSubscribed("news.sport"), changes(1, item("b", 17)), [plain(1, "news.sport"), item("c", 18)]);
  assert.deepEqual([heard, offsets], [["message b@17", "change b@17"], [1]]);
  browser.socket.frames(...changes(1, plain(2, "news.sport")), plain(2, "news.sport"));
  assert.deepEqual(offsets, [1], "and all of it does");
});

test("a new filter is sent, and its answer says what entered and what left", () => {
  const { browser, heard, live, say } = shown();
  live.setFilter(EAST);
  browser.clock.pass(100);
  assert.deepEqual(browser.socket.takeSent(), [{ type: "filter", view: "v1", number: 2, filter: EAST }]);
  say(entered(2, left("a"), position(20), item("z", 18)));
  assert.deepEqual(heard, ["left a", "change -a z@18", "entered z@18"]);
  assert.deepEqual(keys(live), ["b@16", "z@18"]);
});

test("an answer that changes nothing is a snapshot without a change", () => {
  const { browser, heard, live, say } = shown();
  live.setFilter(EAST);
  browser.clock.pass(100);
  say(entered(2));
  assert.deepEqual(heard, ["entered"]);
});

test("while a map moves, the newest filter is sent ten times a second at most", () => {
  const { browser, live } = shown();
  for (let step = 0; step < 100; step += 1) {
    live.setFilter({ zoom: step });
    browser.clock.pass(10);
  }
  browser.clock.pass(100);
  const sent = browser.socket.takeSent();
  assert.ok(sent.length >= 9 && sent.length <= 11, String(sent.length));
  assert.deepEqual(sent.at(-1).filter, { zoom: 99 });
  assert.deepEqual(sent.map(({ number }) => number), sent.map((_, index) => index + 2));
});

test("several maps that move for long stay within the rate, and each gets its turn", () => {
  const { browser, connection, live } = shown();
  const others = [2, 3, 4].map(() => connection.subscribe(FAMILY, { filter: {} }));
  for (const number of [2, 3, 4]) browser.socket.frames(answered(`v${number}`));
  browser.socket.takeSent();
  for (let step = 0; step < 2_000; step += 1) {
    for (const one of [live, ...others]) one.setFilter({ zoom: step });
    browser.clock.pass(10);
  }
  const sent = browser.socket.takeSent().filter(({ type }) => type === "filter");
  // In twenty seconds: the burst, and sixteen a second.
  assert.ok(sent.length <= 64 + 16 * 20, String(sent.length));
  for (const id of ["v1", "v2", "v3", "v4"]) {
    assert.ok(sent.filter(({ view }) => view === id).length > sent.length / 5, id);
  }
});

test("a filter that is set before the server has answered is sent after the answer", () => {
  const { browser, live, say } = opened();
  browser.socket.takeSent();
  live.setFilter(EAST);
  browser.clock.pass(1_000);
  assert.deepEqual(browser.socket.takeSent(), []);
  say(answered());
  assert.deepEqual(browser.socket.takeSent().map(({ type, filter }) => [type, filter]), [["filter", EAST]]);
});

test("after a reconnect the view resumes, and unchanged items are not reported", () => {
  const stage = shown();
  stage.say(changes(1, item("b", 17)));
  stage.heard.length = 0;
  assert.deepEqual(reconnected(stage), [
    { type: "subscribe", topic: FAMILY, view: "v1", number: 2, filter: WEST, positions: { [SBB]: [17, "e1"] } },
  ]);
  assert.deepEqual(keys(stage.live), ["a@3", "b@17"], "the last known state, while the connection is lost");
  stage.say(answered(), reset(2, position(16), item("c", 18), same("b")));
  assert.deepEqual(stage.heard, ["left a", "change -a c@18", "reset c@18"]);
});

test("without positions an unchanged item is not reported again either, and no key goes back in time", () => {
  const stage = shown();
  stage.say(answered(), reset(2, position(16), item("a", 3), item("b", 15)));
  assert.deepEqual(stage.heard, ["reset"]);
  assert.deepEqual(keys(stage.live), ["a@3", "b@16"]);
});

test("a batch that was cut counts for the items, but not for the positions", () => {
  const stage = shown();
  stage.say(part(changes(1, item("b", 17))));
  assert.deepEqual(keys(stage.live), ["a@3", "b@17"]);
  assert.deepEqual(reconnected(stage)[0].positions, { [SBB]: [16, "e1"] });
  stage.say(answered(), reset(2, position(17), item("b", 17), same("a")));
  assert.deepEqual(stage.heard, ["message b@17", "change b@17", "reset"]);
});

test("the part of a snapshot that arrived before a cut is in the event of the next one", () => {
  const stage = opened();
  stage.say(answered(), part(reset(1, position(16), item("a", 3), item("b", 4))));
  assert.equal("positions" in reconnected(stage)[0], false);
  stage.say(answered(), reset(2, position(16), item("a", 3), item("c", 5)));
  assert.deepEqual(stage.heard, ["change a@3 b@4", "left b", "change -b c@5", "reset a@3 c@5"]);
});

for (const [title, act] of [
  ["is not answered", ({ browser }) => browser.clock.pass(100)],
  ["is not sent", () => {}],
]) {
  test(`a view whose newest filter ${title} begins again without positions`, () => {
    const stage = shown();
    stage.live.setFilter(EAST);
    act(stage);
    const [asked] = reconnected(stage);
    assert.deepEqual([asked.filter, "positions" in asked], [EAST, false]);
  });
}

test("when several filters were sent, the answer to the newest counts", () => {
  const stage = shown();
  for (const zoom of [1, 2]) {
    stage.live.setFilter({ zoom });
    stage.browser.clock.pass(100);
  }
  stage.say(entered(3));
  assert.deepEqual(reconnected(stage)[0].positions, { [SBB]: [16, "e1"] });
});

test("a new epoch begins again with its own offsets", () => {
  const stage = shown();
  stage.say(changes(1, position(2, "e2"), left("a"), item("b", 2)));
  assert.deepEqual(stage.heard, ["left a", "message b@2", "change -a b@2"]);
  assert.deepEqual(reconnected(stage)[0].positions, { [SBB]: [2, "e2"] });
});

test("a topic whose epoch the server has not named is not resumed", () => {
  const stage = shown();
  stage.say(changes(1, item("x", 5, "vehicles.vbz")));
  assert.deepEqual(reconnected(stage)[0].positions, { [SBB]: [16, "e1"] });
});

test("a topic that came into view later is resumed, wherever its position was in between its items", () => {
  const stage = shown();
  const [vbz, bls] = ["vehicles.vbz", "vehicles.bls"];
  stage.say(changes(1, position(7, "e5", vbz), item("x", 5, vbz)));
  stage.say(changes(1, item("x", 9, vbz), item("y", 6, bls)));
  stage.say(changes(1, position(3, "e6", bls), position(7, "e5", vbz)));
  assert.deepEqual(reconnected(stage)[0].positions, { [SBB]: [16, "e1"], [vbz]: [9, "e5"], [bls]: [6, "e6"] });
});

test("at most 512 topics are resumed, those that advanced last, and the frame stays within the server's limit", () => {
  const stage = shown();
  const name = (index) => `vehicles.${String(index).padStart(4, "0")}`;
  const resumed = (count, pad) => {
    const topics = Array.from({ length: count }, (_, index) => name(index) + pad);
    stage.say(changes(1, ...topics.flatMap((topic) => [position(1, "e1", topic), item("a", 1, topic)])));
    return Object.keys(reconnected(stage)[0].positions);
  };
  const short = resumed(600, "");
  assert.equal(short.length, 512);
  assert.deepEqual([short[0], short.at(-1)], [name(599), name(88)]);
  stage.say(answered(), reset(2));
  resumed(600, "x".repeat(80));
  const [text] = stage.browser.socket.texts;
  assert.ok(text.length < 65_536 && text.length > 30_000, String(text.length));
});

test("if the server confirms an item that the page does not have, the view is subscribed again without positions", () => {
  const stage = shown();
  reconnected(stage);
  stage.say(answered(), part(reset(2, same("a", "b", "c"))), reset(2, same("d"), item("e", 17)));
  assert.deepEqual(stage.browser.socket.takeSent(), [
    { type: "unsubscribe", topic: FAMILY, view: "v1" },
    { type: "subscribe", topic: FAMILY, view: "v1", number: 3, filter: WEST },
  ]);
  assert.deepEqual(keys(stage.live), ["a@3", "b@16"]);
  const gone = { type: "unsubscribed", topic: FAMILY, view: "v1" };
  stage.say(gone, answered(), reset(3, position(17), item("a", 3), item("b", 16), item("c", 17)));
  assert.deepEqual(stage.heard, ["change c@17", "reset c@17"]);
});

test("if that does not help, there is an error, and no further request", () => {
  const stage = shown();
  stage.say(reset(1, same("c")), answered(), reset(2, same("c")), reset(2, same("d")));
  assert.deepEqual(stage.heard.filter((text) => text.startsWith("error")), ["error wrong_copy"]);
  assert.equal(stage.browser.socket.takeSent().filter(({ type }) => type === "subscribe").length, 1);
});

test("a confirmed item of which the page has refused an outdated state counts as one that it does not have", () => {
  const stage = shown();
  stage.say(reset(1, position(15), item("b", 15)), reset(1, same("b")));
  assert.equal(stage.browser.socket.takeSent().at(-1).type, "subscribe");
});

test("a refused subscription ends, and a new filter subscribes again", () => {
  const { browser, heard, live, say } = opened();
  browser.socket.takeSent();
  say({ type: "error", code: "bad_filter", detail: "filter.zoom", topic: FAMILY, view: "v1" });
  assert.deepEqual(heard, ["error bad_filter"]);
  browser.clock.pass(1_000);
  live.setFilter(EAST);
  assert.deepEqual(browser.socket.takeSent(), [{ type: "subscribe", topic: FAMILY, view: "v1", number: 1, filter: EAST }]);
});

test("after a refused filter the one before stays in force, also on the next connection", () => {
  const stage = shown();
  stage.live.setFilter({ zoom: "far" });
  stage.browser.clock.pass(100);
  stage.say({ type: "error", code: "bad_filter", detail: "filter.zoom", topic: FAMILY, view: "v1" });
  assert.deepEqual(stage.heard, ["error bad_filter"]);
  const [asked] = reconnected(stage);
  assert.deepEqual([asked.filter, asked.positions], [WEST, { [SBB]: [16, "e1"] }]);
});

test("when the server ends the subscription, all items leave", () => {
  const { browser, heard, live, say } = shown();
  say({ type: "unsubscribed", topic: FAMILY, view: "v1", code: "forbidden", detail: "not yours" });
  assert.deepEqual(heard, ["left a b", "change -a -b", "error forbidden"]);
  assert.equal(live.items.size, 0);
  assert.deepEqual(reconnected({ browser, connection: { reconnect: () => browser.clock.pass(1_000) } }), []);
});

test("an error without a listener is passed to the connection", () => {
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  browser.socket.hello();
  connection.subscribe(FAMILY, { filter: {} });
  const refusal = { code: "forbidden", detail: "not yours", topic: FAMILY };
  browser.socket.frames({ type: "error", ...refusal, view: "v1" });
  assert.deepEqual(browser.reported, [refusal]);
});

test("if the server no longer knows the view, it is subscribed again", () => {
  const stage = shown();
  stage.live.setFilter(EAST);
  stage.browser.clock.pass(100);
  stage.browser.socket.takeSent();
  stage.say({ type: "error", code: "unknown_view", detail: "no view v1", topic: FAMILY, view: "v1" });
  assert.deepEqual(stage.browser.socket.takeSent().at(-1), {
    ...{ type: "subscribe", topic: FAMILY, view: "v1", number: 3, filter: EAST },
  });
  assert.deepEqual(stage.heard, []);
});

test("an error about a filter of an earlier subscription is ignored", () => {
  const stage = shown();
  stage.live.setFilter(EAST);
  stage.browser.clock.pass(100);
  stage.say(part(reset(1, same("x"))));
  const late = { type: "error", topic: FAMILY, view: "v1", detail: "late" };
  stage.say({ ...late, code: "bad_filter", number: 2 }, { ...late, code: "unknown_view" });
  stage.say({ type: "unsubscribed", topic: FAMILY, view: "v1" }, answered(), reset(3, item("z", 20)));
  assert.deepEqual([stage.heard, keys(stage.live)], [["left a b", "change -a -b z@20", "reset z@20"], ["z@20"]]);
});

test("the number of an error says which of several filters was refused", () => {
  const stage = shown();
  for (const filter of [{ zoom: "far" }, EAST]) {
    stage.live.setFilter(filter);
    stage.browser.clock.pass(100);
  }
  stage.say({ type: "error", code: "bad_filter", detail: "", topic: FAMILY, view: "v1", number: 2 }, entered(3));
  const [asked] = reconnected(stage);
  assert.deepEqual([asked.filter, asked.positions], [EAST, { [SBB]: [16, "e1"] }]);
});

test("after unsubscribe() there are no events, and the view is not subscribed again", () => {
  const stage = shown();
  stage.live.on("message", () => stage.live.unsubscribe());
  stage.say(changes(1, item("a", 17), item("b", 18)));
  stage.live.setFilter(EAST);
  stage.say(changes(1, item("b", 19)));
  assert.deepEqual(stage.heard, ["message a@17"]);
  assert.deepEqual(stage.browser.socket.takeSent(), [{ type: "unsubscribe", topic: FAMILY, view: "v1" }]);
  stage.live.unsubscribe();
  assert.deepEqual(stage.browser.socket.takeSent(), []);
  assert.deepEqual(reconnected(stage), []);
});

test("a view that ends before it was subscribed is not subscribed", () => {
  const { browser, connection } = shown();
  for (let count = 0; count < 70; count += 1) connection.subscribe(FAMILY, { filter: {} }).unsubscribe();
  browser.clock.pass(20_000);
  const asked = browser.socket.takeSent().filter(({ type }) => type !== "ping");
  assert.equal(asked.filter(({ type }) => type === "subscribe").length, asked.length / 2);
});

test("a plain subscription to a topic of the family is independent", () => {
  const { browser, connection, heard, say } = shown();
  const offsets = [];
  connection.subscribe(SBB).on("message", ({ offset }) => offsets.push(offset));
  assert.deepEqual(browser.socket.takeSent(), [{ type: "subscribe", topic: SBB }]);
  say(plainSubscribed(SBB, { offset: 16 }), item("c", 17), changes(1, item("c", 17)));
  assert.deepEqual([offsets, heard], [[17], ["message c@17", "change c@17"]]);
});

test("an object that cannot be read is an error, and the other objects of its frame are applied", () => {
  const { browser, connection, heard } = shown();
  const errors = [];
  connection.on("error", ({ code }) => errors.push(code));
  const [header, ...lines] = changes(1, item("a", 17), item("b", 18)).map((object) => JSON.stringify(object));
  browser.socket.text([header, lines[0], "{", lines[1]].join("\n"));
  assert.deepEqual([errors, heard.at(-1)], [["unreadable_frame"], "change a@17 b@18"]);
});
