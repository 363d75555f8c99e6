/** Filtered subscriptions against a model of the server: at rest, the page has the truth. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../realtime/static/realtime/client.js";
import { fakeBrowser } from "./fakes.js";
import { LiveServer, randomFrom, World } from "./live_server.js";

const RUNS = 400;
const STEPS = 80;
const TOPICS = ["t.a", "t.b", "t.c"];
const KEYS = ["1", "2", "3", "4", "5", "6"];

const offsetsOf = (states) =>
  Object.fromEntries([...states].map(([id, { offset, data, epoch }]) => [id, [data?.epoch ?? epoch, offset]]).sort());

/**
 * A page that believes only the events, and complains if they go back in time or repeat what it knows. Both are possible
 * only for a topic whose epoch the server had not named when the earlier state arrived.
 */
function listen(live, named) {
  const page = { byChange: new Map(), byEach: new Map(), errors: [] };
  const put = (items, item) => {
    const id = `${item.topic} ${item.key}`;
    const before = items.get(id);
    if (before?.isNamed && before.data.epoch === item.data.epoch) {
      assert.ok(item.offset > before.offset, `${id} was ${before.offset} and is ${item.offset}`);
    }
    items.set(id, { ...item, isNamed: named.get(item.topic) === item.data.epoch });
  };
  live.on("change", ({ items, left }) => {
    for (const { topic, keys } of left) {
      for (const key of keys) assert.ok(page.byChange.delete(`${topic} ${key}`), `${topic} ${key} was not there`);
    }
    for (const item of items) put(page.byChange, item);
    assert.deepEqual(offsetsOf(page.byChange), offsetsOf(live.items), "the changes add up to the items");
  });
  live.on("message", (item) => put(page.byEach, item));
  live.on("left", ({ topic, keys }) => {
    for (const key of keys) page.byEach.delete(`${topic} ${key}`);
  });
  live.on("snapshot", ({ items }) => {
    for (const item of items) put(page.byEach, item);
    assert.deepEqual(offsetsOf(page.byEach), offsetsOf(live.items), "after a snapshot, the other events add up to the items");
  });
  live.on("error", (error) => page.errors.push(error.code));
  return page;
}

/** One run; returns what happened in it, for the counts at the end. */
function run(seed, { lag }) {
  const random = randomFrom(seed);
  const world = new World(TOPICS);
  const browser = fakeBrowser();
  const connection = connect(browser.options);
  const filterOf = () => {
    const low = random.below(80);
    return random.chance(0.2) ? {} : { bbox: [low, 0, low + random.below(60), 0] };
  };
  let filter = filterOf();
  const live = connection.subscribe("t.*", { filter });
  const named = new Map();
  const page = listen(live, named);
  let server = null;
  const counts = { cuts: 0, resumes: 0, refreshes: 0 };
  const open = (lag) => {
    connection.reconnect();
    browser.socket.hello();
    for (const frame of browser.socket.sent) counts.resumes += frame.positions ? 1 : 0;
    server = new LiveServer({ world, socket: browser.socket, random, lag, named });
    server.read();
  };
  const pan = () => {
    filter = filterOf();
    live.setFilter(filter);
  };
  const steps = {
    publish: () => world.publish(random.pick(TOPICS), random.pick(KEYS), random.below(100), random.chance(0.15)),
    pan,
    restart: () => random.chance(0.3) && world.restart(random.pick(TOPICS)),
    time: () => browser.clock.pass(random.below(200)),
    read: () => {
      counts.refreshes += browser.socket.sent.filter(({ type }) => type === "unsubscribe").length;
      server.read();
    },
    tick: () => server.tick({ isSlow: () => random.chance(0.2), countLimit: lag ? random.below(3) : Infinity }),
    deliver: () => server.deliver(random.below(4)),
    refuse: () => {
      // Only one at a time: the error does not name the filter.
      settle();
      live.setFilter({ bad: true });
      settle();
      assert.equal(page.errors.pop(), "bad_filter");
    },
    cut: () => {
      counts.cuts += 1;
      browser.socket.lost();
      open(random.below(lag + 1));
    },
  };
  const deck = Object.entries({ publish: 8, pan: 2, restart: 0.3, time: 3, read: 5, tick: 5, deliver: 7, cut: 1, refuse: 0.2 });
  const total = deck.reduce((sum, [, weight]) => sum + weight, 0);
  open(0);
  for (let step = 0; step < STEPS; step += 1) {
    let at = (random.below(1e6) / 1e6) * total;
    const [name] = deck.find(([, weight]) => (at -= weight) < 0);
    steps[name]();
  }
  settle();
  assert.deepEqual(offsetsOf(live.items), offsetsOf(world.states(filter)));
  assert.deepEqual(offsetsOf(page.byEach), offsetsOf(live.items));
  assert.deepEqual(page.errors, []);
  assert.deepEqual(browser.reported, []);
  return counts;

  function settle() {
    for (let round = 0; round < 6; round += 1) {
      browser.clock.pass(200);
      steps.read();
      server.deliver();
      server.tick();
      server.deliver();
    }
  }
}

/** All runs; returns the sums of what happened. */
function runAll(options) {
  const sums = { cuts: 0, resumes: 0, refreshes: 0 };
  for (let seed = 1; seed <= RUNS; seed += 1) {
    try {
      for (const [name, count] of Object.entries(run(seed, options))) sums[name] += count;
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
  assert.ok(sums.cuts > RUNS && sums.resumes > RUNS / 4, JSON.stringify(sums));
  return sums;
}

test("after random publications, pans, cuts, slow reads and new epochs, the items are the truth", () => {
  const { refreshes } = runAll({ lag: 0 });
  assert.equal(refreshes, 0, "positions are given only if the page has what the server then takes it to have");
});

test("the items are the truth if the server after a reconnect lags behind the one before", () => {
  const { refreshes } = runAll({ lag: 3 });
  assert.ok(refreshes > 0);
});
