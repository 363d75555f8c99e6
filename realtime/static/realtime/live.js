/**
 * A page's subscription with a filter: the items that it lets through now, and what happens to them.
 *
 * Owns the events of a filtered subscription, and asking again if the page's copy is wrong. Does not own the items
 * (store.js) nor what the server is sent (views.js).
 */

import { Listeners } from "./subscription.js";
import { KeyedStore } from "./store.js";

/** A page may change its object later. */
const copyOf = (filter) => {
  if (filter === null || typeof filter !== "object" || Array.isArray(filter)) {
    throw new TypeError("filter must be an object: { bbox, zoom, tags }; {} lets everything through");
  }
  return structuredClone(filter);
};

/** Created by `Connection.subscribe(topic, { filter })`. */
export class LiveSubscription {
  #id;
  #session;
  #leave;
  #listeners;
  #store = new KeyedStore();
  /** Items of snapshots that are not complete yet. @type {Map<string, import("./store.js").Item>} */
  #entered = new Map();
  /** After the server confirmed an item that is not here: "asked" for everything, "repeated" by it, "given up". */
  #repair = "none";
  #filter;
  #isEnded = false;

  /** @private */
  constructor({ id, topic, filter, session, leave, report }) {
    this.#id = id;
    /** The topic or family. @type {string} */
    this.topic = topic;
    this.#filter = copyOf(filter);
    this.#session = session;
    this.#leave = leave;
    this.#listeners = new Listeners(["snapshot", "message", "left", "change", "error"], report);
  }

  /**
   * The present state, by `${topic} ${key}`. It is always the same Map, and is updated before events are emitted. While
   * the connection is lost, it keeps the last known state.
   *
   * @type {ReadonlyMap<string, import("./store.js").Item>}
   */
  get items() {
    return this.#store.items;
  }

  /** The newest filter. */
  get filter() {
    return this.#filter;
  }

  /**
   * Add a listener.
   *
   * - `change` ({items, left: [{topic, keys}]}): once for each frame that changed something. First remove what left,
   *   then draw the new and changed items. A page that draws the present state needs no other event.
   * - `snapshot` ({items, isReset}): once for each answer of the server. `isReset`: to the subscription, or after a
   *   reconnect; otherwise to a filter. `items` are those that are new or have changed.
   * - `message` (Item): a later publication.
   * - `left` ({topic, keys}): they no longer match the filter, were removed, were silent for too long, or the user may
   *   no longer receive them.
   * - `error` ({code, detail, topic}): the server refuses a new filter, and the last valid one stays in force. Or it
   *   refuses or ends the subscription: then all items leave, and `setFilter()` subscribes again.
   *
   * @param {"snapshot" | "message" | "left" | "change" | "error"} name
   * @param {(detail: any) => void} listener Errors that it throws are reported and do not affect others.
   * @returns {() => void} Removes the listener.
   */
  on(name, listener) {
    return this.#listeners.on(name, listener);
  }

  /** Change the filter. It may be called for each movement of a map: a newer filter replaces an unsent one. */
  setFilter(filter) {
    this.#filter = copyOf(filter);
    if (!this.#isEnded) this.join();
  }

  /** End the subscription; `items` stay as they are. Idempotent. */
  unsubscribe() {
    this.#isEnded = true;
    this.#leave(this.#id);
  }

  /** @private Called by the connection, again for each new session. */
  join() {
    this.#session().openView({ id: this.#id, topic: this.topic, filter: this.#filter });
  }

  /** @private Called by the connection with each event. @returns {boolean} Whether there was a listener. */
  take(name, detail) {
    switch (name) {
      case "subscribed":
        this.#store.begin();
        if (this.#repair === "asked") this.#repair = "repeated";
        return true;
      case "view":
        this.#apply(detail);
        return true;
      case "unsubscribed":
        this.#emitChange(this.#store.clear());
        this.#entered.clear();
        return this.#emitError(detail);
      default:
        return this.#emitError(detail);
    }
  }

  #apply(frame) {
    const change = this.#store.apply(frame);
    const isLive = frame.batch === "changes";
    if (change.isWrong) this.#repairCopy();
    else if (frame.batch === "reset" && frame.isComplete && this.#repair !== "asked") this.#repair = "none";
    for (const [topic, keys] of change.left) for (const key of keys) this.#entered.delete(`${topic} ${key}`);
    if (!isLive) for (const item of change.items) this.#entered.set(`${item.topic} ${item.key}`, item);
    const entered = !isLive && frame.isComplete ? [...this.#entered.values()] : null;
    if (entered) this.#entered.clear();
    this.#emitChange(change, isLive);
    if (entered) this.#emit("snapshot", { items: entered, isReset: frame.batch === "reset" });
  }

  #emitChange({ items, left }, isLive = false) {
    const gone = [...left].map(([topic, keys]) => ({ topic, keys }));
    for (const detail of gone) this.#emit("left", detail);
    if (isLive) for (const item of items) this.#emit("message", item);
    if (items.length > 0 || gone.length > 0) this.#emit("change", { items, left: gone });
  }

  /** The server has confirmed an item that is not here: get everything again, but only once. */
  #repairCopy() {
    if (this.#repair === "none") {
      this.#repair = "asked";
      this.#session().refreshView(this.#id);
    } else if (this.#repair === "repeated") {
      this.#repair = "given up";
      const detail = "the server takes this page to have items that it does not have";
      this.#emitError({ code: "wrong_copy", detail, topic: this.topic });
    }
  }

  #emitError({ code, detail, topic }) {
    return this.#emit("error", { code, detail, topic });
  }

  /** Emits nothing after `unsubscribe()`, which an earlier listener may have called. */
  #emit(name, detail) {
    return this.#isEnded || this.#listeners.emit(name, detail);
  }
}
