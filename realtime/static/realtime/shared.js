/**
 * A tab's end of the connection that all tabs of a user share: a session whose work is done by worker.js.
 *
 * Owns coming to the worker, leaving it and noticing that it is gone. To `client.js` it is a `Session` (session.js).
 * Whatever goes wrong with the worker, `onFail` is called, and the page is better off with a session of its own.
 *
 * Tabs and workers end without a word. So each holds a lock as long as it lives, and the other asks for that lock: it
 * is given when the holder is gone.
 */

import { workerUrl } from "./trusted.js";

/** Raised when tabs and worker change what they say to each other: pages of two releases then do not meet. */
const VERSION = 2;
/** From making the worker to its answer. */
const ATTACH_DEADLINE_MS = 5_000;

/** Locks are not there on pages that came over plain http. A test gives null for what is not there. */
const environmentOf = ({
  SharedWorker = globalThis.SharedWorker,
  locks = globalThis.navigator?.locks,
  clock,
}) => ({ SharedWorker, locks, clock });

/** Whether this browser can share a connection between tabs, as far as can be told beforehand. */
export const canShare = (environment) => {
  const { SharedWorker, locks } = environmentOf(environment);
  return Boolean(SharedWorker && locks);
};

export class SharedSession {
  /** @type {Set<string>} */
  #topics = new Set();
  /** Topics that the worker has called subscribed since this tab came to it. */
  #begun = new Set();
  /** @type {import("./link.js").State} */
  #state = "closed";
  /** @type {MessagePort | null} */
  #port = null;
  /** Ends what belongs to the present stay at the worker. @type {AbortController | null} */
  #stay = null;
  #url;
  #user;
  #emit;
  #onFail;
  #environment;

  /**
   * Closed until `reconnect()`.
   *
   * @param {object} options
   * @param {string} options.url
   * @param {string} options.user
   * @param {import("./session.js").Emit} options.emit
   * @param {(reason: string) => void} options.onFail The worker cannot be started, or has ended. Called once, never
   *   synchronously; this session has ended then.
   * @param {object} options.environment
   */
  constructor({ url, user, emit, onFail, environment }) {
    this.#url = url;
    this.#user = user;
    this.#emit = emit;
    this.#onFail = onFail;
    this.#environment = environmentOf(environment);
  }

  get state() {
    return this.#state;
  }

  reconnect() {
    if (this.#stay) this.#post("reconnect");
    else this.#attach();
  }

  suspend() {
    this.#detach();
    if (this.#state !== "closed") this.#setState("waiting");
  }

  resume() {
    if (this.#state === "waiting" && !this.#stay) this.#attach();
  }

  nudge() {
    this.#post("nudge");
  }

  close() {
    this.#detach();
    this.#setState("closed");
  }

  join(topic) {
    if (this.#topics.has(topic)) return;
    this.#topics.add(topic);
    this.#post("join", topic);
  }

  leave(topic) {
    this.#topics.delete(topic);
    this.#begun.delete(topic);
    this.#post("leave", topic);
  }

  ack(topic, offset) {
    this.#post("ack", topic, offset);
  }

  read(ids) {
    if (this.#state === "open") this.#post("read", ids);
    return this.#state === "open";
  }

  #post(call, ...args) {
    this.#port?.postMessage({ call, args });
  }

  async #attach() {
    const stay = (this.#stay = new AbortController());
    const fail = (reason) => {
      if (stay.signal.aborted) return;
      this.#detach();
      this.#onFail(reason);
    };
    const { SharedWorker, locks, clock } = this.#environment;
    const silent = `worker.js did not answer within ${ATTACH_DEADLINE_MS / 1000} s`;
    const deadline = clock.setTimeout(() => fail(silent), ATTACH_DEADLINE_MS);
    stay.signal.addEventListener("abort", () => clock.clearTimeout(deadline));
    this.#setState("connecting");
    try {
      const lock = await holdLock(locks, stay.signal);
      const worker = new SharedWorker(workerUrl(), {
        type: "module",
        name: `signalbox ${VERSION} ${this.#user} ${this.#url}`,
      });
      const broken = ({ message }) => fail(message || "worker.js could not be loaded, or failed");
      worker.addEventListener("error", broken, { signal: stay.signal });
      const port = (this.#port = worker.port);
      stay.signal.addEventListener("abort", () => port.close());
      port.onmessage = ({ data: { name, detail } }) => {
        if (stay.signal.aborted) return;
        if (name !== "attached") return this.#take(name, detail);
        clock.clearTimeout(deadline);
        const ended = () => fail("worker.js has ended");
        locks.request(detail.lock, { mode: "shared", signal: stay.signal }, ended).catch(() => {});
      };
      const topics = [...this.#topics];
      port.postMessage({ call: "attach", args: [{ url: this.#url, user: this.#user, lock, topics }] });
    } catch (error) {
      // For example, the script is of another origin, or a Content Security Policy does not allow it.
      fail(String(error));
    }
  }

  /** Let the lock go: the worker sees it. Idempotent. */
  #detach() {
    this.#stay?.abort();
    this.#stay = null;
    this.#port = null;
    this.#begun.clear();
  }

  #take(name, detail) {
    if (name === "state") return this.#setState(detail);
    if (name === "subscribed") {
      // The worker may have missed nothing, and this tab much: what was said before it came.
      const isSame = detail.recovered && this.#begun.has(detail.topic);
      this.#begun.add(detail.topic);
      return this.#emit(name, { ...detail, recovered: isSame });
    }
    if (name === "unsubscribed") {
      this.#begun.delete(detail.topic);
      this.#topics.delete(detail.topic);
    }
    if (name === "error" && !this.#begun.has(detail.topic)) this.#topics.delete(detail.topic);
    this.#emit(name, detail);
  }

  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#emit("state", state);
  }
}

/**
 * Hold a lock of a new name until `signal` is aborted or this page or worker ends.
 *
 * @param {LockManager} locks
 * @param {AbortSignal} [signal]
 * @returns {Promise<string>} Its name, once it is held.
 */
export const holdLock = (locks, signal) =>
  new Promise((resolve, reject) => {
    const name = `signalbox ${crypto.randomUUID()}`;
    const hold = () => {
      resolve(name);
      return new Promise((release) => {
        if (signal?.aborted) release();
        signal?.addEventListener("abort", release);
      });
    };
    locks.request(name, hold).catch(reject);
  });
