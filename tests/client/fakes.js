/** What `client.js` is given in place of a browser: a WebSocket that the test drives, a clock that it turns, a page. */

/** Every FakeWebSocket made, newest last, by the class that `fakeBrowser` returns. */
class FakeWebSocket {
  readyState = 0;
  sent = [];
  closedWith = null;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.closedWith = code;
    this.readyState = 3;
  }

  /** The server accepts and says hello. */
  hello(fields = {}) {
    this.readyState = 1;
    this.frames({ type: "hello", user_id: 42, ping_seconds: 25, ...fields });
  }

  /** One WebSocket frame that carries these objects. */
  frames(...objects) {
    this.text(objects.map((object) => JSON.stringify(object)).join("\n"));
  }

  text(data) {
    this.onmessage?.({ data });
  }

  /** The server, or the network, closes. */
  lost(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code });
  }
}

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
  browser.options = {
    WebSocket: class extends FakeWebSocket {
      constructor(...args) {
        super(...args);
        sockets.push(this);
      }
    },
    clock: browser.clock,
    page: browser.page,
    random: () => browser.random,
    report: (error) => browser.reported.push(error),
  };
  return browser;
}
