/**
 * A tab's side of the connection that all tabs of a user share: a session whose work is done by worker.js.
 *
 * Owns attaching to the worker, detaching, and noticing that the worker has ended. It has the interface of `Session`
 * (session.js). If anything goes wrong with the worker, `onFail` is called, and the page uses a session of its own.
 *
 * Tabs and workers end without notice. So each holds a lock as long as it lives, and the other requests that lock,
 * which is granted when the holder has ended.
 */

import { workerUrl } from "./trusted.js";

/** Increased when the messages between tabs and worker change, so that pages of two releases use separate workers. */
const VERSION = 3;
/** The longest time from starting the worker to its answer. */
const ATTACH_DEADLINE_MS = 5_000;

/** Pages loaded over plain http have no locks. A test passes null for what is missing. */
const environmentOf = ({
  SharedWorker = globalThis.SharedWorker,
  locks = globalThis.navigator?.locks,
  clock,
}) => ({ SharedWorker, locks, clock });

/** Whether this browser can share a connection between tabs, as far as is known in advance. */
export const canShare = (environment) => {
  const { SharedWorker, locks } = environmentOf(environment);
  return Boolean(SharedWorker && locks);
};

export class SharedSession {
  /** @type {Set<string>} */
  #topics = new Set();
  /** Topics that were subscribed since this tab attached to the worker. */
  #begun = new Set();
  /** Views by id, with their newest filter. @type {Map<string, {id: string, topic: string, filter: object}>} */
  #views = new Map();
  /** @type {import("./link.js").State} */
  #state = "closed";
  /** @type {MessagePort | null} */
  #port = null;
  /** Ends everything that belongs to the current attachment. @type {AbortController | null} */
  #attachment = null;
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
   * @param {(reason: string) => void} options.onFail Called once, never synchronously, when the worker cannot be
   *   started or has ended; this session has then ended.
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
    if (this.#attachment) this.#post("reconnect");
    else this.#attach();
  }

  suspend() {
    this.#detach();
    if (this.#state !== "closed") this.#setState("waiting");
  }

  resume() {
    if (this.#state === "waiting" && !this.#attachment) this.#attach();
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

  openView(view) {
    this.#views.set(view.id, view);
    this.#post("openView", view);
  }

  leaveView(id) {
    this.#views.delete(id);
    this.#post("leaveView", id);
  }

  refreshView(id) {
    this.#post("refreshView", id);
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
    const attachment = (this.#attachment = new AbortController());
    const fail = (reason) => {
      if (attachment.signal.aborted) return;
      this.#detach();
      this.#onFail(reason);
    };
    const { SharedWorker, locks, clock } = this.#environment;
    const timeoutReason = `worker.js did not answer within ${ATTACH_DEADLINE_MS / 1000} s`;
    const deadline = clock.setTimeout(() => fail(timeoutReason), ATTACH_DEADLINE_MS);
    attachment.signal.addEventListener("abort", () => clock.clearTimeout(deadline));
    this.#setState("connecting");
    try {
      const lock = await holdLock(locks, attachment.signal);
      const worker = new SharedWorker(workerUrl(), {
        type: "module",
        name: `signalbox ${VERSION} ${this.#user} ${this.#url}`,
      });
      const broken = ({ message }) => fail(message || "worker.js could not be loaded, or failed");
      worker.addEventListener("error", broken, { signal: attachment.signal });
      const port = (this.#port = worker.port);
      attachment.signal.addEventListener("abort", () => port.close());
      port.onmessage = ({ data: { name, detail } }) => {
        if (attachment.signal.aborted) return;
        if (name !== "attached") return this.#take(name, detail);
        clock.clearTimeout(deadline);
        const ended = () => fail("worker.js has ended");
        locks.request(detail.lock, { mode: "shared", signal: attachment.signal }, ended).catch(() => {});
      };
      const topics = [...this.#topics];
      const views = [...this.#views.values()];
      port.postMessage({ call: "attach", args: [{ url: this.#url, user: this.#user, lock, topics, views }] });
    } catch (error) {
      // For example, the script is of another origin, or a Content Security Policy does not allow it.
      fail(String(error));
    }
  }

  /** Detach from the worker by releasing the lock. Idempotent. */
  #detach() {
    this.#attachment?.abort();
    this.#attachment = null;
    this.#port = null;
    this.#begun.clear();
  }

  #take(name, detail) {
    if (name === "state") return this.#setState(detail);
    if (detail?.view !== undefined) {
      if (name === "unsubscribed") this.#views.delete(detail.view);
      return this.#emit(name, detail);
    }
    if (name === "subscribed") {
      // Even if the worker has missed nothing, this tab has missed everything before it attached.
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
 * @returns {Promise<string>} The name of the lock, once it is held.
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
