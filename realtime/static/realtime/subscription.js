/**
 * A page's subscription to a topic, and the listeners that every part of the client has.
 *
 * Owns which events the listeners of a subscription get. Does not own positions and gaps (session.js), nor
 * subscriptions with a filter (live.js).
 */

/** Listeners by event name. An error in one does not affect the others. */
export class Listeners {
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
