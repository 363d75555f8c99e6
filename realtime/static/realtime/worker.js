/**
 * The only connection of a user in this browser: a SharedWorker that all tabs of the user attach to.
 *
 * Owns which events each tab gets: those of its topics and views, once, in the order of the session. Does not store
 * events for tabs that are not attached, nor the items of views, nor own the tab's side (shared.js).
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
  /** Views of all tabs: the id on the connection → the tab, and the id in the tab. @type {Map<string, {port, id}>} */
  #views = new Map();
  #lastView = 0;
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
      else if (call === "openView") this.#openView(port, args[0]);
      else if (call === "leaveView") this.#leaveView(this.#viewOf(port, args[0]));
      else if (call === "refreshView") this.#session.refreshView(this.#viewOf(port, args[0]));
      else if (CALLS.has(call)) this.#session[call](...args);
    };
  }

  #attach(port, { url, user, lock, topics, views }) {
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
    for (const view of views) this.#openView(port, view);
  }

  #detach(port) {
    const topics = this.#tabs.get(port);
    if (!topics) return;
    for (const topic of [...topics]) this.#leave(port, topic);
    for (const [id, view] of this.#views) if (view.port === port) this.#leaveView(id);
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

  /** Each tab has its own views, with ids of its own: the connection needs others. */
  #openView(port, { id, topic, filter }) {
    const own = this.#viewOf(port, id) ?? `v${++this.#lastView}`;
    this.#views.set(own, { port, id });
    this.#session.openView({ id: own, topic, filter });
  }

  /** @param {string | undefined} id */
  #leaveView(id) {
    if (this.#views.delete(id)) this.#session.leaveView(id);
  }

  /** The id on the connection; undefined if the view has ended. */
  #viewOf(port, id) {
    return [...this.#views].find(([, view]) => view.port === port && view.id === id)?.[0];
  }

  #takeOfView(name, detail) {
    const { port, id } = this.#views.get(detail.view);
    if (name === "unsubscribed") this.#views.delete(detail.view);
    port.postMessage({ name, detail: { ...detail, view: id } });
  }

  /** If the topic is live, the tab gets its events from now on. It must load the state itself. */
  #beginIfLive(port, topic) {
    if (this.#live.has(topic)) port.postMessage({ name: "subscribed", detail: { topic, recovered: false } });
  }

  /** @type {import("./session.js").Emit} */
  #take(name, detail) {
    if (detail?.view !== undefined) return this.#takeOfView(name, detail);
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
