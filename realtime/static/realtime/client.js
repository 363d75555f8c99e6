/**
 * The browser's end of `signalbox.v1`: one connection that stays, and the topics that a page hears over it.
 *
 * Owns who listens to what, and telling the connection what becomes of the page. Does not own the protocol
 * (session.js), the socket (link.js), the sharing between tabs (shared.js, worker.js) nor what a message means; it holds
 * no messages.
 * No dependency, no build step. docs/reference/client.md tells it to those who use it.
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
 * @property {string | number} [user] For whom the page was made. Given it, all tabs of that user share one connection
 *   where the browser can, and a server that takes the browser for somebody else is left alone.
 * @property {typeof WebSocket} [WebSocket] This and the following exist for tests.
 * @property {typeof SharedWorker} [SharedWorker]
 * @property {LockManager} [locks]
 * @property {object} [clock]
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

/** Codes of errors after which the page must not show the user's data any more. */
export const SIGNED_OUT = new Set(["unauthorised", "signed_out", "deactivated", "other_user"]);

/** Named events, each to its listeners; one that throws disturbs nobody. */
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

  /** @returns {boolean} Whether anybody listens. */
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

/** One topic as one part of a page hears it. Made by `Connection.subscribe()`. */
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
   * Listen.
   *
   * - `message` (Publication): each publication from here on, once, in order of offset.
   * - `resync` ({topic, lost?}): publications before this moment may have been missed; all later ones arrive. Read the
   *   state anew. It is always the first event. It comes again only if the server could not resend all that was missed:
   *   what it still has follows as messages, and `lost` is the number of missing publications, if it is known.
   * - `error` ({code, detail, topic}): the server refuses the topic, or the user has lost the permission for it. The
   *   client does not subscribe to it again. Passed to `options.report` if nobody listens.
   *
   * @param {"message" | "resync" | "error"} name
   * @param {(detail: any) => void} listener What it throws is reported and disturbs nobody else.
   * @returns {() => void} Stops the listening.
   */
  on(name, listener) {
    return this.#listeners.on(name, listener);
  }

  /** Hear no more of it. Idempotent. */
  unsubscribe() {
    this.#leave(this);
    this.#isEnded = true;
  }

  /**
   * Tell the server that everything up to `offset` is dealt with. Calls are gathered: one frame a second at most, so
   * it may be called for each message. Nothing is resent after a reconnect.
   *
   * @param {number} [offset] Default: of the last message heard.
   */
  ack(offset = this.#offset) {
    if (offset !== null) this.#session().ack(this.topic, offset);
  }

  /** @private The connection's word to its subscriptions. */
  take(name, detail) {
    // In a listener of another, while this one's turn was coming.
    if (this.#isEnded) return true;
    if (name === "message") this.#offset = detail.offset ?? this.#offset;
    if (name !== "subscribed") return this.#listeners.emit(name, detail);
    if (detail.recovered && this.#isStarted) return true;
    this.#isStarted = true;
    const { lost } = detail;
    return this.#listeners.emit("resync", { topic: this.topic, ...(lost !== undefined && { lost }) });
  }
}

/** A page's connection to the server. Made by `connect()`. */
export class Connection {
  #options;
  /** @type {Session | SharedSession} */
  #session;
  #listeners;
  /** The user's own topic: nobody has to ask for it. @type {Subscription} */
  #own;
  /** @type {Set<Subscription>} */
  #subscriptions = new Set();
  /** Topics of which publications come now. */
  #live = new Set();
  /** @type {State} */
  #state = "closed";
  /** The error that ends the connection because the user is not signed in any more; null if there is none. */
  #signedOut = null;
  /** Ends the listening to the page. @type {AbortController | null} */
  #pageListeners = null;
  #page;
  #report;

  /** @param {Options} [options] */
  constructor(options = {}) {
    this.#page = options.page ?? globalThis.window;
    this.#report = options.report ?? ((error) => (globalThis.reportError ?? console.error)(error));
    const url = new URL(options.url ?? "/ws/", this.#page?.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    /** Where it connects to; absolute. */
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
   * Listen.
   *
   * - `message` (Publication), `resync` ({topic, lost?}): of the user's own topic, as on a Subscription.
   * - `state` (State): it has changed.
   * - `signedout` ({code, detail}): the page's user is not signed in any more, or somebody else is. It comes after the
   *   `error` and the state `closed`, in all tabs. Stop showing the user's data.
   * - `error` ({code, detail, topic?}): an error that the server sent, a frame that could not be read, the reason why
   *   the server closed the connection for good (the state becomes `closed` next), or the reason why the connection is
   *   not shared between tabs. It closes nothing by itself. Passed to `options.report` if nobody listens. Errors about
   *   a topic go to its Subscription.
   *
   * @param {"message" | "resync" | "state" | "signedout" | "error"} name
   * @param {(detail: any) => void} listener What it throws is reported and disturbs nobody else.
   * @returns {() => void} Stops the listening.
   */
  on(name, listener) {
    return (name === "message" || name === "resync" ? this.#own : this.#listeners).on(name, listener);
  }

  /**
   * Hear a topic, over reconnects, until `unsubscribe()`.
   *
   * @param {string} topic
   * @returns {Subscription}
   */
  subscribe(topic) {
    const subscription = this.#subscription(String(topic));
    this.#subscriptions.add(subscription);
    // Others of this page hear it already: it begins when the caller has put its listeners on.
    const begin = () => this.#live.has(topic) && subscription.take("subscribed", { recovered: false });
    if (this.#live.has(topic)) queueMicrotask(begin);
    else this.#session.join(topic);
    return subscription;
  }

  /**
   * Tell the server that the user has read these notifications.
   *
   * @param {number[]} ids
   * @returns {boolean} Whether it is on its way; it is not answered. If not, use a form or try when the state is open.
   */
  read(ids) {
    return this.#session.read(ids);
  }

  /** Try now: ends a wait, and brings back a closed connection. Nothing happens while connecting or open. */
  reconnect() {
    this.#listenToPage();
    this.#session.reconnect();
  }

  /** End it for this page (until `reconnect()`); other tabs keep theirs. Idempotent. */
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
    if (!this.#subscriptions.delete(subscription) || this.#heardBy(subscription.topic).length > 0) return;
    this.#live.delete(subscription.topic);
    this.#session.leave(subscription.topic);
  }

  #heardBy(topic) {
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
    let isHeard = false;
    for (const subscription of this.#heardBy(detail.topic)) {
      isHeard = subscription.take(name, detail) || isHeard;
    }
    if (name === "error" && !isHeard && !this.#listeners.emit("error", detail)) this.#report(detail);
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
    // Those of the document do not all come up to the window.
    const listen = (name, listener) => this.#page.addEventListener(name, listener, { signal, capture: true });
    listen("online", () => this.#session.nudge());
    // Being offline says nothing of a server on this machine: ask it.
    listen("offline", () => this.#session.nudge());
    listen("visibilitychange", () => this.#page.document.visibilityState === "visible" && this.#session.nudge());
    // A page that is put away, for the back button or to save memory, holds nothing; one that is taken out comes back.
    for (const name of ["pagehide", "freeze"]) listen(name, () => this.#session.suspend());
    for (const name of ["pageshow", "resume"]) listen(name, () => this.#session.resume());
  }
}
