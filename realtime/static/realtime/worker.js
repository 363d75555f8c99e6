/**
 * The only connection of a user in this browser: a SharedWorker that all tabs of the user attach to.
 *
 * Owns which events each tab gets: those of its topics, once, in the order of the session. Does not store events for
 * tabs that are not attached, nor own the tab's side (shared.js).
 *
 * Messages from a tab: {call, args}, first `attach`. Messages to a tab: {name, detail}, first `attached`, then the
 * events of the session.
 */

import { systemClock } from "./link.js";
import { Session } from "./session.js";
import { holdLock } from "./shared.js";

/** Calls that are passed to the session unchanged; `TabHub` handles the others. */
const CALLS = new Set(["ack", "read", "nudge", "reconnect"]);

export class TabHub {
  /** @type {Session | null} */
  #session = null;
  /** The attached tabs and their topics. @type {Map<MessagePort, Set<string>>} */
  #tabs = new Map();
  #own = null;
  /** Topics whose publications are arriving now. */
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

  /** A tab has started the worker, or connected to it. @param {MessagePort} port */
  connect(port) {
    port.onmessage = ({ data: { call, args } }) => {
      if (call === "attach") this.#attach(port, args[0]);
      // A late message from a tab that has ended.
      else if (!this.#tabs.has(port)) return;
      else if (call === "join") this.#join(port, args[0]);
      else if (call === "leave") this.#leave(port, args[0]);
      else if (CALLS.has(call)) this.#session[call](...args);
    };
  }

  #attach(port, { url, user, lock, topics }) {
    this.#tabs.set(port, new Set());
    // The tab holds this lock, so the request is granted when the tab has ended.
    this.#locks.request(lock, () => this.#detach(port));
    this.#lock.then((own) => port.postMessage({ name: "attached", detail: { lock: own } }));
    const emit = (name, detail) => this.#take(name, detail);
    this.#session ??= new Session({ url, user, emit, environment: this.#environment });
    // The cause of a close, such as being signed out, may be over, because this page is newer.
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
    // Pages in the back/forward cache keep the worker alive, but need no connection.
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

  /** If the topic is live, the tab gets its events from now on. It must load the state itself. */
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
  const hub = new TabHub(navigator.locks);
  globalThis.onconnect = ({ ports: [port] }) => hub.connect(port);
}
