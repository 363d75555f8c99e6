/**
 * A WebSocket connection that reconnects by itself.
 *
 * Owns when to connect, wait and give up, splitting frames into objects, and detecting a dead connection. Does not own
 * the meaning of the objects (session.js). Runs in a page or in a worker.
 *
 *                hello
 *     connecting ─────▶ open
 *        ▲ │ lost        │ lost
 *        │ ▼             ▼
 *       waiting ◀────────┘          any state ──close() or a final close code──▶ closed ──reconnect()──▶ connecting
 */

/** Why the server closed; mirrors realtime/protocol/close_codes.py. A client reconnects after codes below 4500 only. */
export const CLOSE_CODES = Object.freeze({
  SLOW: 4000,
  RESTART: 4001,
  UNAVAILABLE: 4002,
  AGED: 4003,
  PASSWORD_CHANGED: 4004,
  SESSION_ENDED: 4005,
  WRITE_FAILED: 4006,
  UNAUTHORISED: 4500,
  FORBIDDEN_ORIGIN: 4501,
  TOO_MANY_CONNECTIONS: 4502,
  PROTOCOL_ERROR: 4503,
  SIGNED_OUT: 4504,
  DEACTIVATED: 4505,
  DISCONNECTED: 4506,
  RATE_LIMITED: 4507,
});

/** The meaning of each final code, for servers that send the code without the reason, as Daphne does. */
const MEANINGS = {
  UNAUTHORISED: "nobody is signed in, or the account is inactive",
  FORBIDDEN_ORIGIN: "the page's origin may not connect",
  TOO_MANY_CONNECTIONS: "this user has too many connections",
  PROTOCOL_ERROR: "the client sent something that the protocol does not allow",
  SIGNED_OUT: "the user has signed out",
  DEACTIVATED: "the account has been deactivated or deleted",
  DISCONNECTED: "the site has ended the user's connections",
  RATE_LIMITED: "the client sent too much in too short a time",
};

export const SUBPROTOCOL = "signalbox.v1";
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 20_000;
/** From this attempt on, the longest wait is the cap. */
const CAPPED_ATTEMPT = Math.ceil(Math.log2(BACKOFF_CAP_MS / BACKOFF_BASE_MS));
/** A connection that lasted this long was stable: the next wait starts from the base again. */
const STABLE_MS = 20_000;
/** The longest time from opening a socket to its hello. */
const HELLO_DEADLINE_MS = 15_000;
/** The longest time from a ping to any frame from the server. */
const PONG_DEADLINE_MS = 10_000;
const DEFAULT_PING_MS = 25_000;
/** The server accepts frames of 64 KiB; a character has up to three bytes in UTF-8. */
const FRAME_CHARACTERS = 21_000;
/** The longest wait that a server can ask for. */
const RETRY_AFTER_LIMIT_MS = 300_000;
/** Close codes for data that one side did not accept (RFC 6455, 7.4.1). A quick retry would hardly help. */
const NOT_ACCEPTED = new Set([1002, 1003, 1007, 1008, 1009, 1010]);

/**
 * Whether a client must not reconnect after this close code until something else has changed.
 *
 * @param {number} code
 * @returns {boolean}
 */
export const isFinal = (code) => code >= 4500 && code <= 4999;

/**
 * A final close in the form of an `error` event.
 *
 * @param {number} code
 * @param {string} [reason]
 * @returns {{code: string, detail: string}} `code`: the name of the close code in lower case, "refused" if it has none.
 */
export const refusal = (code, reason) => {
  const [name] = Object.entries(CLOSE_CODES).find(([, value]) => value === code) ?? ["refused"];
  const detail = reason || MEANINGS[name] || `the server closed the connection with ${code}`;
  return { code: name.toLowerCase(), detail };
};

/**
 * How long to wait before the next attempt: full jitter, exponential, capped.
 *
 * @param {number} attempt The number of consecutive failures, less one.
 * @param {() => number} random In [0, 1).
 * @returns {number} Milliseconds.
 */
export const backoffMs = (attempt, random) =>
  random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));

/**
 * The wait that the server asks for when it stops or ends this connection.
 *
 * @param {number} code The close code. The reason counts only with a code of the protocol that is not final.
 * @param {string} [reason] `retry_after=<seconds>`.
 * @returns {number | null} Milliseconds; null if it asks for none.
 */
export const retryAfterMs = (code, reason = "") => {
  const seconds = code >= 4000 && code < 4500 && /^retry_after=(\d+(?:\.\d+)?)$/.exec(reason)?.[1];
  return seconds ? Math.min(Number(seconds) * 1000, RETRY_AFTER_LIMIT_MS) : null;
};

/**
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 *   `open`: the server has sent hello. `waiting`: lost and retrying, or suspended with its page. `closed`: not
 *   retrying.
 *
 * @typedef {object} Environment What a browser provides and a test replaces; each has a default.
 * @property {typeof WebSocket} [WebSocket]
 * @property {{setTimeout: Function, clearTimeout: Function, now: () => number}} [clock] Milliseconds.
 * @property {() => number} [random]
 */

/** @type {Required<Environment>["clock"]} */
export const systemClock = {
  setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
  // Monotonic: setting the clock back must not delay a ping.
  now: () => performance.now(),
};

export class Link {
  /** The current socket; events of earlier ones are ignored. @type {WebSocket | null} */
  #socket = null;
  /** @type {State} */
  #state = "closed";
  /** The only timer. By state: the deadline of hello, the next ping or its deadline, or the end of a wait. */
  #timer = null;
  /** The number of consecutive failures. */
  #attempt = 0;
  /** Whether the server asked for this wait; only `reconnect()` ends it early. */
  #isWaitRequested = false;
  #pingMs = DEFAULT_PING_MS;
  #openedAt = 0;
  #receivedAt = 0;
  /** When a ping was sent, if nothing has arrived since; otherwise null. @type {number | null} */
  #pingedAt = null;
  #url;
  #onState;
  #onFrame;
  #onFrameEnd;
  #onRefused;
  #WebSocket;
  #clock;
  #random;

  /**
   * @param {object} options
   * @param {() => string} options.url Returns the absolute URL for the next socket.
   * @param {(state: State) => void} options.onState Called with each new state.
   * @param {(frame: any) => void} options.onFrame Called with each object from the server, in order.
   * @param {() => void} [options.onFrameEnd] Called after the last object of each WebSocket frame.
   * @param {(refusal: {code: string, detail: string}) => void} options.onRefused The server closed the connection for
   *   good; the state becomes `closed` right after.
   * @param {Environment} [options.environment]
   */
  constructor({ url, onState, onFrame, onFrameEnd = () => {}, onRefused, environment = {} }) {
    this.#url = url;
    this.#onState = onState;
    this.#onFrame = onFrame;
    this.#onFrameEnd = onFrameEnd;
    this.#onRefused = onRefused;
    this.#WebSocket = environment.WebSocket ?? globalThis.WebSocket;
    this.#clock = environment.clock ?? systemClock;
    this.#random = environment.random ?? Math.random;
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** Try now: ends a wait, and brings back a closed connection. Nothing happens while connecting or open. */
  reconnect() {
    if (this.#socket) return;
    this.#attempt = 0;
    this.#open();
  }

  /** Close it until `reconnect()`. Idempotent. */
  close() {
    this.#dropSocket();
    this.#setState("closed");
  }

  /** Close the socket and wait for `resume()`, without a timer. */
  suspend() {
    if (this.#state === "closed") return;
    this.#dropSocket();
    this.#setState("waiting");
  }

  /** Undo `suspend()`; a closed connection stays closed. */
  resume() {
    if (this.#state === "waiting") this.reconnect();
  }

  /** The network may have changed: connect at once if waiting, send a ping if open. */
  nudge() {
    if (this.#state === "waiting" && !this.#isWaitRequested) this.#open();
    if (this.#state !== "open") return;
    this.#ping();
    this.#watch();
  }

  /**
   * @param {...object} frames Objects to send, in one WebSocket frame if the server's limit allows that.
   * @returns {boolean} Whether they were sent; nothing is kept for later.
   */
  send(...frames) {
    if (this.#socket?.readyState !== 1) return false;
    let text = "";
    for (const frame of frames) {
      const line = JSON.stringify(frame);
      if (text && text.length + line.length >= FRAME_CHARACTERS) {
        this.#socket.send(text);
        text = "";
      }
      text += text ? `\n${line}` : line;
    }
    this.#socket.send(text);
    return true;
  }

  #open() {
    this.#dropSocket();
    const socket = new this.#WebSocket(this.#url(), [SUBPROTOCOL]);
    this.#socket = socket;
    const ifLive = (handle) => (event) => socket === this.#socket && handle(event);
    socket.onmessage = ifLive((event) => this.#receive(event.data));
    // The error event has no details, and close always follows it.
    socket.onclose = ifLive((event) => this.#closed(event.code, event.reason));
    this.#setTimer(HELLO_DEADLINE_MS, () => this.#closed(1006));
    this.#setState("connecting");
  }

  #closed(code, reason) {
    if (isFinal(code)) {
      this.#onRefused(refusal(code, reason));
      return this.close();
    }
    if (this.#state === "open" && this.#clock.now() - this.#openedAt >= STABLE_MS) this.#attempt = 0;
    if (NOT_ACCEPTED.has(code)) this.#attempt = Math.max(this.#attempt, CAPPED_ATTEMPT);
    this.#dropSocket();
    const requested = retryAfterMs(code, reason);
    this.#isWaitRequested = requested !== null;
    this.#setTimer(requested ?? backoffMs(this.#attempt, this.#random), () => this.#open());
    this.#attempt += 1;
    this.#setState("waiting");
  }

  #receive(text) {
    this.#receivedAt = this.#clock.now();
    this.#pingedAt = null;
    const socket = this.#socket;
    for (const line of String(text).split("\n")) {
      let frame;
      try {
        frame = JSON.parse(line);
      } catch (error) {
        frame = { type: "error", code: "unreadable_frame", detail: String(error) };
      }
      this.#onFrame(frame);
      if (frame?.type === "hello" && socket === this.#socket) this.#hello(frame);
      // A listener may have closed the connection: the rest of the frame is no longer wanted.
      if (socket !== this.#socket) return;
    }
    this.#onFrameEnd();
  }

  #hello(frame) {
    this.#pingMs = frame.ping_seconds > 0 ? frame.ping_seconds * 1000 : DEFAULT_PING_MS;
    this.#openedAt = this.#clock.now();
    this.#watch();
    this.#setState("open");
  }

  /** Check the connection: after a long silence send a ping, and without an answer to it reconnect. */
  #watch() {
    const now = this.#clock.now();
    // Counted from the ping, not from the last frame: timers of a page in the background are delayed, and a healthy
    // connection would look dead.
    if (this.#pingedAt !== null && now - this.#pingedAt >= PONG_DEADLINE_MS) return this.#closed(1006);
    if (now - this.#receivedAt >= this.#pingMs) this.#ping();
    const due = this.#pingedAt === null ? this.#receivedAt + this.#pingMs : this.#pingedAt + PONG_DEADLINE_MS;
    this.#setTimer(due - now, () => this.#watch());
  }

  #ping() {
    // Only one at a time: the deadline counts from the first.
    if (this.#pingedAt !== null) return;
    this.#pingedAt = this.#clock.now();
    this.send({ type: "ping" });
  }

  #dropSocket() {
    const socket = this.#socket;
    this.#socket = null;
    this.#pingedAt = null;
    this.#isWaitRequested = false;
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
    this.#onState(state);
  }
}
