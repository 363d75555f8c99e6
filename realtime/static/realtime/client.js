/**
 * The browser's client for `signalbox.v1`: one lasting connection, and the topics that a page subscribes to on it.
 *
 * Owns the listeners of a page, and closing the connection while the page is frozen. Does not own the protocol
 * (session.js), the socket (link.js), sharing between tabs (shared.js, worker.js) nor the meaning of messages. It
 * stores no messages.
 * No dependencies, no build step. docs/reference/client.md is the documentation for users.
 *
 *     import { connect } from "/static/realtime/client.js";
 *     const connection = connect({ user: "42" });
 *     connection.on("message", ({ data }) => show(data));
 *     connection.on("resync", () => reloadTheInbox());
 *     const news = connection.subscribe("news.sport");
 *     news.on("message", ({ data }) => showNews(data));
 */

import { systemClock } from "./link.js";
import { Session } from "./session.js";
import { canShare, SharedSession } from "./shared.js";

export { CLOSE_CODES } from "./link.js";

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

/** Listeners by event name. An error in one does not affect the others. */
class Listeners {
  #byName;
  #report;

  constructor(names, report) {
    this.#byName = Object.fromEntries(names.map((name) => [name, new Set()]));
    this.#report = report;
  }

  on(name, listener) {
    const listeners = Object.hasOwn(this.#byName, name) ? this.#byName[name] : null;
    if (!listeners) throw new TypeError(`no event "${name}": there are ${Object.keys(this.#byName).join(", ")}`);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** @returns {boolean} Whether there is a listener. */
  emit(name, detail) {
    for (const listener of [...this.#byName[name]]) {
      try {
        listener(detail);
      } catch (error) {
        this.#report(error);
      }
    }
    return this.#byName[name].size > 0;
  }
}

/** The subscription of one part of a page to a topic. Created by `Connection.subscribe()`. */
export class Subscription {
  #listeners;
  #session;
  #leave;
  #offset = null;
  #isStarted = false;
  #isEnded = false;

  /** @private */
  constructor({ topic, session, leave, report }) {
    /** @type {string | null} */
    this.topic = topic;
    this.#session = session;
    this.#leave = leave;
    this.#listeners = new Listeners(["message", "resync", "error"], report);
  }

  /**
   * Add a listener.
   *
   * - `message` (Publication): each later publication, once, in order of offset.
   * - `resync` ({topic, lost?}): publications before this moment may have been missed; all later ones arrive. Reload
   *   the state. It is always the first event. It is repeated only if the server could not resend everything that was
   *   missed: what is still kept follows as messages, and `lost` is the number of missing publications, if known.
   * - `error` ({code, detail, topic}): the server refuses the topic, or the user has lost the permission for it. The
   *   client does not subscribe again. Passed to `options.report` if there is no listener.
   *
   * @param {"message" | "resync" | "error"} name
   * @param {(detail: any) => void} listener Errors that it throws are reported and do not affect others.
   * @returns {() => void} Removes the listener.
   */
  on(name, listener) {
    return this.#listeners.on(name, listener);
  }

  /** End the subscription. Idempotent. */
  unsubscribe() {
    this.#leave(this);
    this.#isEnded = true;
  }

  /**
   * Tell the server that everything up to `offset` has been processed. Calls are combined into at most one frame per
   * second, so it may be called for each message. Nothing is resent after a reconnect.
   *
   * @param {number} [offset] Default: the offset of the last message.
   */
  ack(offset = this.#offset) {
    if (offset !== null) this.#session().ack(this.topic, offset);
  }

  /** @private Called by the connection with each event of the topic. */
  take(name, detail) {
    // Ended by an earlier listener of the same event.
    if (this.#isEnded) return true;
    if (name === "message") this.#offset = detail.offset ?? this.#offset;
    if (name !== "subscribed") return this.#listeners.emit(name, detail);
    if (detail.recovered && this.#isStarted) return true;
    this.#isStarted = true;
    const { lost } = detail;
    return this.#listeners.emit("resync", { topic: this.topic, ...(lost !== undefined && { lost }) });
  }
}

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
   * @param {string} topic
   * @returns {Subscription}
   */
  subscribe(topic) {
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
