/**
 * What `client.js` is given in place of a browser: a WebSocket that the test drives, a clock that it turns, a page, and
 * for tabs that share a connection a worker, its ports and locks.
 */

import { webcrypto } from "node:crypto";
import { setImmediate } from "node:timers/promises";

import { TabHub } from "../../realtime/static/realtime/worker.js";

// Node.js 18 has it, but not here.
globalThis.crypto ??= webcrypto;

/** Every FakeWebSocket made, newest last, by the class that `fakeBrowser` returns. */
class FakeWebSocket {
  readyState = 0;
  sent = [];
  /** What was sent as frames. */
  texts = [];
  closedWith = null;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    this.texts.push(text);
    this.sent.push(...text.split("\n").map((line) => JSON.parse(line)));
  }

  close(code) {
    this.closedWith = code;
    this.readyState = 3;
  }

  /** The server accepts and says hello; `position` is that of the user's own topic. */
  hello(fields = {}, position = {}) {
    this.readyState = 1;
    const hello = { type: "hello", user_id: 42, ping_seconds: 25, ...fields };
    this.frames(hello, subscribed(hello.topic ?? `user.${hello.user_id}`, position));
  }

  /** What was sent since the last call. */
  takeSent() {
    return this.sent.splice(0);
  }

  /** One WebSocket frame that carries these objects. */
  frames(...objects) {
    this.text(objects.map((object) => JSON.stringify(object)).join("\n"));
  }

  text(data) {
    this.onmessage?.({ data });
  }

  /** The server, or the network, closes. */
  lost(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

/** The server's answer: `topic` is live from here on. By default at the beginning, and nothing is said of before. */
export const subscribed = (topic, { offset = 0, epoch = "e1", recovered = false, ...more } = {}) => ({
  type: "subscribed",
  topic,
  offset,
  epoch,
  recovered,
  ...more,
});

/** A publication. */
export const message = (offset, topic = "user.42") => ({ type: "message", topic, offset, data: { id: offset } });

class FakeClock {
  #now = 0;
  #timers = new Map();
  #lastId = 0;

  now = () => this.#now;
  clearTimeout = (id) => this.#timers.delete(id);
  setTimeout = (callback, ms) => {
    this.#timers.set(++this.#lastId, { at: this.#now + ms, callback });
    return this.#lastId;
  };

  get pendingCount() {
    return this.#timers.size;
  }

  /** Let this much time pass; timers run when they are due, in order. */
  pass(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      const [id, { at, callback }] = due;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, at);
      callback();
    }
    this.#now = end;
  }

  /** Let time pass without a timer running, as in a page whose timers are held back. */
  passAsleep(ms) {
    this.#now += ms;
  }
}

class FakePage extends EventTarget {
  document = { visibilityState: "visible" };
  location = { href: "https://shop.example/orders/?page=2" };

  fire(name, fields = {}) {
    this.dispatchEvent(Object.assign(new Event(name), fields));
  }
}

class FakePort {
  /** @type {FakePort} */
  other;
  onmessage = null;
  #isClosed = false;

  postMessage(value) {
    const copy = structuredClone(value);
    queueMicrotask(() => !this.#isClosed && this.other.onmessage?.({ data: copy }));
  }

  close() {
    this.#isClosed = this.other.#isClosed = true;
  }
}

/** Locks as the browser has them; `drop()` lets go what a page or worker holds that ends without a word. */
export class FakeLocks {
  /** Name → what was asked for it, in order; the first holds it. */
  #queues = new Map();

  request(name, options, callback = options) {
    const queue = this.#queues.get(name) ?? [];
    this.#queues.set(name, queue);
    return new Promise((resolve, reject) => {
      const entry = { callback, done: resolve };
      options.signal?.addEventListener("abort", () => {
        if (queue.indexOf(entry) > 0) queue.splice(queue.indexOf(entry), 1);
        reject(options.signal.reason);
      });
      queue.push(entry);
      if (queue.length === 1) this.#grant(name);
    });
  }

  get names() {
    return [...this.#queues.keys()];
  }

  async #grant(name) {
    const queue = this.#queues.get(name);
    const [entry] = queue;
    await null;
    const dropped = new Promise((resolve) => (entry.drop = resolve));
    await Promise.race([entry.callback({ name }), dropped]);
    entry.done();
    queue.shift();
    if (queue.length > 0) this.#grant(name);
    else this.#queues.delete(name);
  }

  drop(name) {
    this.#queues.get(name)[0].drop();
  }
}

/** Everything that waits for nothing but its turn has run when this returns. */
export const settled = async () => {
  for (let turn = 0; turn < 5; turn += 1) await setImmediate();
};

/**
 * A browser with several tabs of one user and a SharedWorker for them.
 *
 * @returns `tab()` gives the options for the `connect()` of one more tab, and its page; `sockets` are the worker's.
 */
export function fakeTabs() {
  const outside = fakeBrowser();
  const tabs = {
    ...outside,
    outside,
    locks: new FakeLocks(),
    /** What "new SharedWorker" does: "work", "throw", "stay silent" or "fail". */
    mode: "work",
    /** Name → the worker of that name. @type {Map<string, TabHub>} */
    workers: new Map(),
    get socket() {
      return outside.sockets.at(-1);
    },
    tab(fields = {}) {
      const own = fakeBrowser();
      Object.assign(own.options, { user: 42, locks: tabs.locks, SharedWorker, ...fields });
      return own;
    },
  };
  class SharedWorker extends EventTarget {
    port = new FakePort();

    constructor(_url, { name }) {
      super();
      if (tabs.mode === "throw") throw new Error("not allowed");
      const inside = new FakePort();
      [inside.other, this.port.other] = [this.port, inside];
      if (tabs.mode === "fail") queueMicrotask(() => this.dispatchEvent(new Event("error")));
      if (tabs.mode !== "work") return;
      const hub = tabs.workers.get(name) ?? new TabHub(tabs.locks, outside.environment);
      tabs.workers.set(name, hub);
      hub.connect(inside);
    }
  }
  return tabs;
}

/**
 * @returns All of it, and `options` for `connect()`; `random` is what every draw yields until the test sets another.
 */
export function fakeBrowser() {
  const sockets = [];
  const browser = {
    sockets,
    clock: new FakeClock(),
    page: new FakePage(),
    random: 0.999,
    reported: [],
    get socket() {
      return sockets.at(-1);
    },
  };
  browser.environment = {
    WebSocket: class extends FakeWebSocket {
      constructor(...args) {
        super(...args);
        sockets.push(this);
      }
    },
    clock: browser.clock,
    random: () => browser.random,
  };
  browser.options = {
    ...browser.environment,
    page: browser.page,
    report: (error) => browser.reported.push(error),
  };
  return browser;
}
