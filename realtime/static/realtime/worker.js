/**
 * The one connection of a user in this browser: a SharedWorker that all of the user's tabs attach to.
 *
 * Owns which tab hears what. Each tab gets what concerns it once, in the order in which the session says it; nothing is
 * kept for a tab that is not there. Tabs talk to it through shared.js.
 *
 * From a tab: {call, args}, first `attach`. To a tab: {name, detail}, first `attached`, then what a session emits.
 */

import { systemClock } from "./link.js";
import { Session } from "./session.js";
import { holdLock } from "./shared.js";

/** What a tab may ask of the session as it is; the rest is `Hub`'s to decide. */
const CALLS = new Set(["ack", "read", "nudge", "reconnect"]);

export class Hub {
  /** @type {Session | null} */
  #session = null;
  /** Who is attached, and what each has asked for. @type {Map<MessagePort, Set<string>>} */
  #tabs = new Map();
  #own = null;
  /** Topics of which publications come now. */
  #live = new Set();
  #locks;
  #environment;
  /** @type {Promise<string>} */
  #lock;

  /**
   * @param {LockManager} locks
   * @param {import("./link.js").Environment} [environment]
   */
  constructor(locks, environment = {}) {
    this.#locks = locks;
    this.#environment = { clock: systemClock, ...environment };
    this.#lock = holdLock(locks);
  }

  /** A tab has made the worker, or found it. @param {MessagePort} port */
  connect(port) {
    port.onmessage = ({ data: { call, args } }) => {
      if (call === "attach") this.#attach(port, args[0]);
      // One that is gone may have left a word.
      else if (!this.#tabs.has(port)) return;
      else if (call === "join") this.#join(port, args[0]);
      else if (call === "leave") this.#leave(port, args[0]);
      else if (CALLS.has(call)) this.#session[call](...args);
    };
  }

  #attach(port, { url, user, lock, topics }) {
    this.#tabs.set(port, new Set());
    // The tab holds this lock: it is given to the next when the tab is gone.
    this.#locks.request(lock, () => this.#detach(port));
    this.#lock.then((own) => port.postMessage({ name: "attached", detail: { lock: own } }));
    const emit = (name, detail) => this.#take(name, detail);
    this.#session ??= new Session({ url, user, emit, environment: this.#environment });
    // Whatever closed it, such as not being signed in, may be over: this page is newer.
    if (this.#session.state === "closed") this.#session.reconnect();
    else this.#session.nudge();
    port.postMessage({ name: "state", detail: this.#session.state });
    if (this.#own !== null) {
      port.postMessage({ name: "own", detail: this.#own });
      this.#beginIfLive(port, this.#own);
    }
    for (const topic of topics) this.#join(port, topic);
  }

  #detach(port) {
    const topics = this.#tabs.get(port);
    if (!topics) return;
    for (const topic of [...topics]) this.#leave(port, topic);
    this.#tabs.delete(port);
    port.close();
    // Pages that are put away keep the worker, but need no connection.
    if (this.#tabs.size === 0) this.#session.close();
  }

  #join(port, topic) {
    this.#tabs.get(port).add(topic);
    if (topic !== this.#own) this.#session.join(topic);
    this.#beginIfLive(port, topic);
  }

  #leave(port, topic) {
    this.#tabs.get(port).delete(topic);
    if ([...this.#tabs.values()].some((topics) => topics.has(topic))) return;
    if (topic === this.#own) return;
    this.#live.delete(topic);
    this.#session.leave(topic);
  }

  /** From here on it hears the topic as the others do; what was before, it has to read. */
  #beginIfLive(port, topic) {
    if (this.#live.has(topic)) port.postMessage({ name: "subscribed", detail: { topic, recovered: false } });
  }

  /** @type {import("./session.js").Emit} */
  #take(name, detail) {
    if (name === "own") this.#own = detail;
    if (name === "state" && detail !== "open") this.#live.clear();
    if (name === "subscribed") this.#live.add(detail.topic);
    if (name === "unsubscribed") this.#live.delete(detail.topic);
    const topic = detail?.topic;
    for (const [port, topics] of this.#tabs) {
      if (topic !== undefined && topic !== this.#own && !topics.has(topic)) continue;
      port.postMessage({ name, detail });
      if ((name === "error" || name === "unsubscribed") && !this.#live.has(topic)) topics.delete(topic);
    }
  }
}

if (globalThis.SharedWorkerGlobalScope) {
  const hub = new Hub(navigator.locks);
  globalThis.onconnect = ({ ports: [port] }) => hub.connect(port);
}
