/**
 * The browser's client for `signalbox.v1`: one lasting connection, and the topics that a page subscribes to on it.
 *
 * Owns which parts of a page get an event, and closing the connection while the page is frozen. Does not own what a
 * subscription makes of it (subscription.js, live.js), the protocol (session.js), the socket (link.js), sharing between
 * tabs (shared.js, worker.js) nor the meaning of messages.
 * No dependencies, no build step. docs/reference/client.md is the documentation for users, client.d.ts declares all of
 * it for TypeScript.
 *
 *     import { connect } from "/static/realtime/client.js";
 *     const connection = connect({ user: "42" });
 *     connection.on("message", ({ data }) => show(data));
 *     connection.on("resync", () => reloadTheInbox());
 *     const news = connection.subscribe("news.sport");
 *     news.on("message", ({ data }) => showNews(data));
 *     const vehicles = connection.subscribe("vehicles.*", { filter: { bbox: [5.9, 45.8, 10.5, 47.8], zoom: 9 } });
 *     vehicles.on("change", () => draw(vehicles.items.values()));
 */

import { systemClock } from "./link.js";
import { LiveSubscription } from "./live.js";
import { Session } from "./session.js";
import { canShare, SharedSession } from "./shared.js";
import { Listeners, Subscription } from "./subscription.js";

export { CLOSE_CODES } from "./link.js";
export { LiveSubscription } from "./live.js";
export { Subscription } from "./subscription.js";

/**
 * @typedef {import("./link.js").State} State
 *
 * @typedef {{topic: string, offset?: number, data: any}} Publication
 *
 * @typedef {object} Options
 * @property {string} [url] Of the WebSocket; relative to the page, http becomes ws. Default "/ws/".
 * @property {string | number} [user] The user for whom the page was rendered. With it, all tabs of the user share one
 *   connection if the browser supports that, and the connection is closed if another user is signed in.
 * @property {typeof WebSocket} [WebSocket] This and the following are for tests.
 * @property {typeof SharedWorker} [SharedWorker]
 * @property {LockManager} [locks]
 * @property {object} [clock]
 * @property {() => number} [random]
 * @property {EventTarget & {document?: Document, location?: Location}} [page] Usually `window`.
 * @property {(error: unknown) => void} [report] Called with errors that listeners throw.
 */

/**
 * Connect and stay connected.
 *
 * @param {Options} [options]
 * @returns {Connection}
 * @throws {TypeError} The URL is invalid.
 */
export const connect = (options) => new Connection(options);

/** Codes of errors after which the page must not show the user's data any more. */
export const SIGNED_OUT = new Set(["unauthorised", "signed_out", "deactivated", "other_user"]);

/** A page's connection to the server. Created by `connect()`. */
export class Connection {
  #options;
  /** @type {Session | SharedSession} */
  #session;
  #listeners;
  /** The user's own topic, which needs no subscribe(). @type {Subscription} */
  #own;
  /** @type {Set<Subscription>} */
  #subscriptions = new Set();
  /** Those with a filter, by the id of their view. @type {Map<string, LiveSubscription>} */
  #views = new Map();
  #lastView = 0;
  /** Topics whose publications are arriving now. */
  #live = new Set();
  /** @type {State} */
  #state = "closed";
  /** The error that says that the user is not signed in any more; null if there is none. */
  #signedOut = null;
  /** Removes the listeners on the page. @type {AbortController | null} */
  #pageListeners = null;
  #page;
  #report;

  /** @param {Options} [options] */
  constructor(options = {}) {
    this.#page = options.page ?? globalThis.window;
    this.#report = options.report ?? ((error) => (globalThis.reportError ?? console.error)(error));
    const url = new URL(options.url ?? "/ws/", this.#page?.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    /** The absolute URL of the WebSocket. */
    this.url = url.href;
    const { user, WebSocket, SharedWorker, locks, clock = systemClock, random } = options;
    this.#options = {
      url: this.url,
      user: user === undefined ? undefined : String(user),
      environment: { WebSocket, SharedWorker, locks, clock, random },
    };
    this.#listeners = new Listeners(["message", "resync", "state", "signedout", "error"], this.#report);
    this.#own = this.#subscription(null);
    this.#listenToPage();
    this.#start(this.#options.user !== undefined && canShare(this.#options.environment));
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /**
   * Add a listener.
   *
   * - `message` (Publication), `resync` ({topic, lost?}): as on a Subscription, for the user's own topic.
   * - `state` (State): the new state.
   * - `signedout` ({code, detail}): the page's user is not signed in any more, or somebody else is. It comes after the
   *   `error` and the state `closed`, in all tabs. The page must stop showing the user's data.
   * - `error` ({code, detail, topic?}): an error that the server sent, a frame that could not be read, the reason why
   *   the server closed the connection for good (the state becomes `closed` next), or the reason why the connection is
   *   not shared between tabs. It does not close anything by itself. Passed to `options.report` if there is no
   *   listener. Errors about a topic go to its Subscription.
   *
   * @param {"message" | "resync" | "state" | "signedout" | "error"} name
   * @param {(detail: any) => void} listener Errors that it throws are reported and do not affect others.
   * @returns {() => void} Removes the listener.
   */
  on(name, listener) {
    return (name === "message" || name === "resync" ? this.#own : this.#listeners).on(name, listener);
  }

  /**
   * Subscribe to a topic, across reconnects, until `unsubscribe()`.
   *
   * With a filter, the page gets the present state of each key that the filter lets through, and then what changes. The
   * topic may be a family, such as "vehicles.*".
   *
   * @param {string} topic
   * @param {{filter?: object}} [options] `filter`: {bbox, zoom, tags}; {} lets everything through.
   * @returns {Subscription | LiveSubscription} A LiveSubscription if there is a filter.
   * @throws {TypeError} The filter is not an object.
   */
  subscribe(topic, { filter } = {}) {
    if (filter !== undefined) return this.#subscribeView(String(topic), filter);
    const subscription = this.#subscription(String(topic));
    this.#subscriptions.add(subscription);
    // The topic is live on this page already: begin after the caller has added its listeners.
    const begin = () => this.#live.has(topic) && subscription.take("subscribed", { recovered: false });
    if (this.#live.has(topic)) queueMicrotask(begin);
    else this.#session.join(topic);
    return subscription;
  }

  /**
   * Tell the server that the user has read these notifications.
   *
   * @param {number[]} ids
   * @returns {boolean} Whether it was sent; there is no answer. If not, use a form, or retry when the state is open.
   */
  read(ids) {
    return this.#session.read(ids);
  }

  /** Connect now: ends a wait, and reopens a closed connection. Does nothing while connecting or open. */
  reconnect() {
    this.#listenToPage();
    this.#session.reconnect();
  }

  /** Close it for this page, until `reconnect()`; other tabs keep theirs. Idempotent. */
  close() {
    this.#pageListeners?.abort();
    this.#pageListeners = null;
    this.#session.close();
  }

  #start(isShared) {
    const emit = (name, detail) => this.#take(name, detail);
    const onFail = (reason) => {
      this.#start(false);
      emit("error", { code: "not_shared", detail: `this tab has a connection of its own: ${reason}` });
    };
    const options = { ...this.#options, emit, onFail };
    this.#session = isShared ? new SharedSession(options) : new Session(options);
    for (const { topic } of this.#subscriptions) this.#session.join(topic);
    for (const live of this.#views.values()) live.join();
    this.#session.reconnect();
  }

  #subscription(topic) {
    return new Subscription({
      topic,
      session: () => this.#session,
      leave: (subscription) => this.#leave(subscription),
      report: this.#report,
    });
  }

  #subscribeView(topic, filter) {
    const id = `v${++this.#lastView}`;
    const leave = () => this.#views.delete(id) && this.#session.leaveView(id);
    const live = new LiveSubscription({ id, topic, filter, session: () => this.#session, leave, report: this.#report });
    this.#views.set(id, live);
    live.join();
    return live;
  }

  #leave(subscription) {
    if (!this.#subscriptions.delete(subscription) || this.#subscriptionsOf(subscription.topic).length > 0) return;
    this.#live.delete(subscription.topic);
    this.#session.leave(subscription.topic);
  }

  #subscriptionsOf(topic) {
    return [this.#own, ...this.#subscriptions].filter((subscription) => subscription.topic === topic);
  }

  /** @type {import("./session.js").Emit} */
  #take(name, detail) {
    if (name === "state") return this.#stateChanged(detail);
    if (name === "own") {
      this.#own.topic = detail;
      return;
    }
    if (detail.view !== undefined) return this.#takeOfView(name, detail);
    if (name === "subscribed") this.#live.add(detail.topic);
    if (name === "unsubscribed") {
      this.#live.delete(detail.topic);
      return this.#take("error", detail);
    }
    if (name === "error" && SIGNED_OUT.has(detail.code)) this.#signedOut = detail;
    let isHandled = false;
    for (const subscription of this.#subscriptionsOf(detail.topic)) {
      isHandled = subscription.take(name, detail) || isHandled;
    }
    if (name === "error" && !isHandled && !this.#listeners.emit("error", detail)) this.#report(detail);
  }

  #takeOfView(name, { view, ...detail }) {
    const live = this.#views.get(view);
    // Left meanwhile.
    if (!live || live.take(name, detail)) return;
    const { code, detail: reason, topic } = detail;
    const complaint = { code, detail: reason, topic };
    if (!this.#listeners.emit("error", complaint)) this.#report(complaint);
  }

  #stateChanged(state) {
    if (state !== "open") this.#live.clear();
    if (state === this.#state) return;
    this.#state = state;
    const signedOut = this.#signedOut;
    this.#signedOut = null;
    this.#listeners.emit("state", state);
    if (state === "closed" && signedOut) this.#listeners.emit("signedout", signedOut);
  }

  #listenToPage() {
    if (this.#pageListeners || !this.#page?.addEventListener) return;
    this.#pageListeners = new AbortController();
    const { signal } = this.#pageListeners;
    // Not all events of the document bubble up to the window.
    const listen = (name, listener) => this.#page.addEventListener(name, listener, { signal, capture: true });
    listen("online", () => this.#session.nudge());
    // Being offline says nothing about a server on this machine: check the connection.
    listen("offline", () => this.#session.nudge());
    listen("visibilitychange", () => this.#page.document.visibilityState === "visible" && this.#session.nudge());
    // A page in the back/forward cache, or frozen to save memory, holds no connection; it reconnects when it is shown.
    for (const name of ["pagehide", "freeze"]) listen(name, () => this.#session.suspend());
    for (const name of ["pageshow", "resume"]) listen(name, () => this.#session.resume());
  }
}
