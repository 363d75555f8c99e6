/**
 * The browser's end of `signalbox.v1`: one WebSocket that stays connected.
 *
 * Owns when to connect, to wait and to give up, the frame form, and noticing a dead connection. Does not own what a
 * message means, nor remembering messages: it holds none. No dependency, no build step.
 *
 *     import { connect } from "/static/realtime/client.js";
 *     const connection = connect();
 *     connection.on("message", ({ topic, data }) => show(data));
 *     connection.on("resync", () => reloadTheInbox());
 *
 *                hello
 *     connecting ─────▶ open
 *        ▲ │ lost        │ lost
 *        │ ▼             ▼
 *       waiting ◀────────┘          any state ──close() or a final close code──▶ closed ──reconnect()──▶ connecting
 */

/** Why the server closed; mirrors realtime/close_codes.py. Below 4500: come back. From 4500: do not. */
export const CLOSE_CODES = Object.freeze({
  SLOW: 4000,
  RESTART: 4001,
  REDIS_LOST: 4002,
  UNAUTHORISED: 4500,
  FORBIDDEN_ORIGIN: 4501,
  TOO_MANY_CONNECTIONS: 4502,
  PROTOCOL_ERROR: 4503,
});

export const SUBPROTOCOL = "signalbox.v1";
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 20_000;
/** A connection that lasted this long was a good one: the next wait starts from the base again. */
const STABLE_MS = 20_000;
/** From the start of a connection to its hello. */
const HELLO_DEADLINE_MS = 15_000;
/** From a ping to any sign of life. */
const PONG_DEADLINE_MS = 10_000;
const DEFAULT_PING_MS = 25_000;

/**
 * Whether a close code says: do not come back until something else has changed.
 *
 * @param {number} code
 * @returns {boolean}
 */
export const isFinal = (code) => code >= 4500 && code <= 4999;

/**
 * How long to wait before the next try: full jitter, exponential, capped.
 *
 * @param {number} attempt Tries that have failed in a row before this wait, less one.
 * @param {() => number} random In [0, 1).
 * @returns {number} Milliseconds.
 */
export const backoffMs = (attempt, random) =>
  random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));

/**
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 *   `open`: the server has said hello, messages come. `waiting`: lost; tries again by itself. `closed`: does not.
 *
 * @typedef {{topic: string, offset?: number, data: any}} Publication
 *
 * @typedef {object} Options
 * @property {string} [url] Of the WebSocket; relative to the page, http becomes ws. Default "/ws/".
 * @property {typeof WebSocket} [WebSocket] This and the following exist for tests.
 * @property {{setTimeout: Function, clearTimeout: Function, now: () => number}} [clock] Milliseconds.
 * @property {() => number} [random]
 * @property {EventTarget & {document?: Document, location?: Location}} [page] Usually `window`.
 * @property {(error: unknown) => void} [report] Gets what a listener throws.
 */

/**
 * Connect, and stay connected.
 *
 * @param {Options} [options]
 * @returns {Connection}
 * @throws {TypeError} When the URL is none.
 */
export const connect = (options) => new Connection(options);

/** One connection to the server, over as many WebSockets as it takes. Made by `connect()`. */
export class Connection {
  /** The live socket; events of any other are of the past and are ignored. @type {WebSocket | null} */
  #socket = null;
  /** @type {State} */
  #state = "closed";
  /** Event name → its listeners. */
  #listeners = { message: new Set(), state: new Set(), resync: new Set(), error: new Set() };
  /** The one timer: the hello's deadline, the next ping or its deadline, or the end of the wait, by state. */
  #timer = null;
  /** Tries that failed in a row. */
  #attempt = 0;
  #pingMs = DEFAULT_PING_MS;
  #openedAt = 0;
  #heardAt = 0;
  /** When a ping went out that nothing has followed yet; null otherwise. @type {number | null} */
  #pingedAt = null;
  /** Ends the listening to the page. @type {AbortController | null} */
  #pageListeners = null;

  /** @param {Options} [options] */
  constructor(options = {}) {
    this.#page = options.page ?? globalThis.window;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    this.#clock = options.clock ?? {
      setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
      clearTimeout: (timer) => globalThis.clearTimeout(timer),
      // Monotonic: a clock that is set back must not put off a ping by an hour.
      now: () => performance.now(),
    };
    this.#random = options.random ?? Math.random;
    this.#report = options.report ?? ((error) => (globalThis.reportError ?? console.error)(error));
    const url = new URL(options.url ?? "/ws/", this.#page?.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    /** Where it connects to; absolute. */
    this.url = url.href;
    this.reconnect();
  }

  #page;
  #WebSocket;
  #clock;
  #random;
  #report;

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /**
   * Listen.
   *
   * - `message` (Publication): one publication, in the order in which the server sent them; at least once.
   * - `state` (State): it has changed.
   * - `resync` (): the connection is open, and publications from before that moment may have been missed: since the
   *   page was made, or since the connection was lost. Read the state anew.
   * - `error` ({code, detail, …}): what the server complains of, or a frame that could not be read. Reported if nobody
   *   listens; closes nothing.
   *
   * @param {"message" | "state" | "resync" | "error"} name
   * @param {(detail: any) => void} listener What it throws is reported and disturbs nobody else.
   * @returns {() => void} Stops the listening.
   */
  on(name, listener) {
    const listeners = this.#listeners[name];
    if (!listeners) throw new TypeError(`no event "${name}": there are ${Object.keys(this.#listeners).join(", ")}`);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Try now: ends a wait, and brings back a closed connection. Nothing happens while connecting or open. */
  reconnect() {
    if (this.#state === "connecting" || this.#state === "open") return;
    this.#listenToPage();
    this.#attempt = 0;
    this.#open();
  }

  /** End it for good (until `reconnect()`). Idempotent. */
  close() {
    this.#pageListeners?.abort();
    this.#pageListeners = null;
    this.#dropSocket();
    this.#setState("closed");
  }

  #open() {
    this.#dropSocket();
    const socket = new this.#WebSocket(this.url, [SUBPROTOCOL]);
    this.#socket = socket;
    const ifLive = (handle) => (event) => socket === this.#socket && handle(event);
    socket.onmessage = ifLive((event) => this.#receive(event.data));
    // The error event says nothing, and close always follows it.
    socket.onclose = ifLive((event) => this.#closed(event.code));
    this.#setTimer(HELLO_DEADLINE_MS, () => this.#closed(1006));
    this.#setState("connecting");
  }

  #closed(code) {
    if (isFinal(code)) return this.close();
    if (this.#state === "open" && this.#clock.now() - this.#openedAt >= STABLE_MS) this.#attempt = 0;
    this.#dropSocket();
    this.#setTimer(backoffMs(this.#attempt, this.#random), () => this.#open());
    this.#attempt += 1;
    this.#setState("waiting");
  }

  #receive(text) {
    this.#heardAt = this.#clock.now();
    this.#pingedAt = null;
    const socket = this.#socket;
    for (const line of String(text).split("\n")) {
      let frame;
      try {
        frame = JSON.parse(line);
      } catch (error) {
        this.#emit("error", { code: "unreadable_frame", detail: String(error) });
        continue;
      }
      this.#handle(frame);
      // A listener may have closed the connection: the rest of the frame is no longer wanted.
      if (socket !== this.#socket) return;
    }
  }

  #handle(frame) {
    switch (frame?.type) {
      case "hello":
        return this.#hello(frame);
      case "message":
        return this.#emit("message", { topic: frame.topic, offset: frame.offset, data: frame.data });
      case "error":
        return this.#emit("error", frame);
      // Anything else is for a newer client.
    }
  }

  #hello(frame) {
    this.#pingMs = frame.ping_seconds > 0 ? frame.ping_seconds * 1000 : DEFAULT_PING_MS;
    this.#openedAt = this.#clock.now();
    this.#watch();
    this.#setState("open");
    // Unless a listener has just closed it.
    if (this.#state === "open") this.#emit("resync");
  }

  /** Is the server still there? Silent for too long: ping. No answer to that: it is not. */
  #watch() {
    const now = this.#clock.now();
    // Counted from the ping and not from the last sign of life: a page in the background has its timers held back,
    // and would else call every healthy connection dead.
    if (this.#pingedAt !== null && now - this.#pingedAt >= PONG_DEADLINE_MS) return this.#closed(1006);
    if (now - this.#heardAt >= this.#pingMs) this.#ping();
    const due = this.#pingedAt === null ? this.#heardAt + this.#pingMs : this.#pingedAt + PONG_DEADLINE_MS;
    this.#setTimer(due - now, () => this.#watch());
  }

  #ping() {
    // One at a time: the deadline runs from the first.
    if (this.#pingedAt !== null) return;
    this.#pingedAt = this.#clock.now();
    this.#send({ type: "ping" });
  }

  #send(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #listenToPage() {
    if (this.#pageListeners || !this.#page?.addEventListener) return;
    this.#pageListeners = new AbortController();
    const listen = (name, listener) =>
      this.#page.addEventListener(name, listener, { signal: this.#pageListeners.signal });
    listen("online", () => this.#nudge());
    // Being offline says nothing of a server on this machine: ask it.
    listen("offline", () => this.#nudge());
    listen("visibilitychange", () => this.#page.document.visibilityState === "visible" && this.#nudge());
    // A page with an open socket cannot be kept for the back button; one that is kept wakes up with a dead one.
    listen("pagehide", () => {
      this.#dropSocket();
      this.#setState("waiting");
    });
    listen("pageshow", (event) => event.persisted && this.reconnect());
  }

  /** The world has changed: try at once if waiting, make sure if open. */
  #nudge() {
    if (this.#state === "waiting") return this.reconnect();
    if (this.#state !== "open") return;
    this.#ping();
    this.#watch();
  }

  #dropSocket() {
    const socket = this.#socket;
    this.#socket = null;
    this.#pingedAt = null;
    this.#clearTimer();
    socket?.close(1000);
  }

  #setTimer(ms, callback) {
    this.#clearTimer();
    this.#timer = this.#clock.setTimeout(callback, ms);
  }

  #clearTimer() {
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer);
    this.#timer = null;
  }

  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#emit("state", state);
  }

  #emit(name, detail) {
    if (name === "error" && this.#listeners.error.size === 0) this.#report(detail);
    for (const listener of [...this.#listeners[name]]) {
      try {
        listener(detail);
      } catch (error) {
        this.#report(error);
      }
    }
  }
}
