/**
 * The client's side of `signalbox.v1` over one connection: what is subscribed, and where in each topic it is.
 *
 * Owns the position of each topic, coming back to it, holes and repeats, and the rate of what is sent. Does not own the
 * socket (link.js) nor listeners (client.js). Runs in a page or in a worker: all it emits is plain data.
 */

import { Link } from "./link.js";

/** What may be sent at once, and how much comes back a second; the server's own limits (REALTIME) are above them. */
const SEND_BURST = 64;
const SENDS_PER_SECOND = 16;
/** Acknowledgements are gathered for so long: the last one says it all. */
const ACK_MS = 1_000;

/**
 * @typedef {object} Topic
 * @property {number | null} offset Of the last publication seen; null while the server has not said where it begins.
 * @property {string} epoch Whose offsets these are.
 * @property {boolean} isLive Publications come, and join on to `offset`.
 * @property {number | null} askedFrom The offset from which the server was asked to fill a hole.
 *
 * @callback Emit Takes each event of a session; the Connection in `client.js` passes it to its listeners.
 *   `state` (State): the new state. `own` (topic: string): the user's own topic. `subscribed` ({topic, recovered,
 *   lost?}): the topic is live from here on; `recovered` if nothing was missed, `lost` is how many publications are
 *   lost, if it is known. `unsubscribed` ({topic, code, detail}): the user has lost the permission for the topic.
 *   `message` ({topic, offset, data}). `error` ({code, detail, topic?}).
 * @param {"state" | "own" | "subscribed" | "unsubscribed" | "message" | "error"} name
 * @param {any} detail
 */

export class Session {
  /** @type {Map<string, Topic>} */
  #topics = new Map();
  /** The user's own topic, once the server has said who that is. @type {string | null} */
  #own = null;
  /** What waits to be sent, by what it is about: a later one takes the place of an earlier one. At most two a topic. */
  #outbox = new Map();
  #allowance = SEND_BURST;
  #allowanceAt;
  #outboxTimer = null;
  #url;
  #user;
  #emit;
  #link;
  #clock;

  /**
   * Closed until `reconnect()`.
   *
   * @param {object} options
   * @param {string} options.url Absolute, ws: or wss:.
   * @param {string} [options.user] For whom; if the server takes the client for somebody else, the session ends.
   * @param {Emit} options.emit
   * @param {import("./link.js").Environment & {clock: object}} options.environment
   */
  constructor({ url, user, emit, environment }) {
    this.#url = new URL(url);
    this.#user = user;
    this.#emit = emit;
    this.#clock = environment.clock;
    this.#allowanceAt = this.#clock.now();
    this.#link = new Link({
      url: () => this.#urlFromHere(),
      onState: (state) => this.#stateChanged(state),
      onFrame: (frame) => this.#handle(frame),
      onRefused: (refusal) => this.#emit("error", refusal),
      environment,
    });
  }

  get state() {
    return this.#link.state;
  }

  reconnect() {
    this.#link.reconnect();
  }

  suspend() {
    this.#link.suspend();
  }

  resume() {
    this.#link.resume();
  }

  nudge() {
    this.#link.nudge();
  }

  close() {
    this.#link.close();
  }

  /** Subscribe, and stay subscribed over reconnects. Idempotent. @param {string} topic */
  join(topic) {
    if (this.#topics.has(topic)) return;
    this.#topics.set(topic, { offset: null, epoch: "", isLive: false, askedFrom: null });
    if (this.state === "open") this.#subscribe(topic);
  }

  /** @param {string} topic Not the user's own: that stays. */
  leave(topic) {
    if (topic === this.#own || !this.#topics.delete(topic)) return;
    this.#outbox.delete(`ack ${topic}`);
    if (this.state === "open") this.#post(`topic ${topic}`, { type: "unsubscribe", topic });
  }

  /** Everything on a topic up to `offset` is dealt with; told within a second. */
  ack(topic, offset) {
    const known = this.#topics.get(topic);
    if (!known?.isLive || offset > known.offset) return;
    const before = this.#outbox.get(`ack ${topic}`);
    this.#outbox.set(`ack ${topic}`, { type: "ack", topic, offset: Math.max(offset, before?.offset ?? 0) });
    this.#flushIn(ACK_MS);
  }

  /** @param {number[]} ids @returns {boolean} Whether it is on its way. */
  read(ids) {
    return this.state === "open" && this.#link.send({ type: "read", ids });
  }

  // What the server says ----------------------------------------------------------------------------------------------

  #handle(frame) {
    switch (frame?.type) {
      case "hello":
        return this.#hello(frame);
      case "subscribed":
        return this.#subscribed(frame);
      case "unsubscribed":
        return this.#unsubscribed(frame);
      case "message":
        return this.#message(frame);
      case "error":
        return this.#refused(frame);
      // A pong was heard by the link. Anything else is for a newer client.
    }
  }

  #hello(frame) {
    if (this.#user !== undefined && String(frame.user_id) !== this.#user) {
      this.#emit("error", { code: "other_user", detail: `this page is of user ${this.#user}` });
      return this.close();
    }
    // A server of an earlier release does not send the topic.
    const own = frame.topic ?? `user.${frame.user_id}`;
    if (own !== this.#own) {
      this.#topics.delete(this.#own);
      this.#own = own;
    }
    this.join(own);
    this.#emit("own", own);
    for (const topic of this.#topics.keys()) if (topic !== own) this.#subscribe(topic);
  }

  #subscribed({ topic: name, offset, epoch, recovered, lost }) {
    const topic = this.#topics.get(name);
    if (!topic) return;
    const isSame = recovered === true && topic.offset !== null;
    // Not back: what has been seen since the question would come again.
    topic.offset = isSame && epoch === topic.epoch ? Math.max(offset, topic.offset) : offset;
    topic.epoch = epoch;
    topic.isLive = true;
    if (!isSame) topic.askedFrom = null;
    this.#emit("subscribed", { topic: name, recovered: isSame, ...(lost !== undefined && { lost }) });
  }

  /** The answer to our request; or, with a code, the server's own decision: then we do not subscribe again. */
  #unsubscribed({ topic: name, code, detail }) {
    const topic = this.#topics.get(name);
    if (!topic) return;
    topic.isLive = false;
    if (code === undefined) return;
    this.#topics.delete(name);
    this.#outbox.delete(`topic ${name}`);
    this.#emit("unsubscribed", { topic: name, code, detail });
  }

  #message({ topic: name, offset, data }) {
    const topic = this.#topics.get(name);
    // While it is not live, an answer is on its way after which this comes again.
    if (!topic?.isLive) return;
    if (typeof offset === "number") {
      if (offset <= topic.offset) return;
      if (offset !== topic.offset + 1 && !this.#isHoleAccepted(name, topic)) return;
      topic.offset = offset;
      topic.askedFrom = null;
    }
    this.#emit("message", { topic: name, offset, data });
  }

  /** Something is missing: ask for it, once. If that did not bring it, go on, and say so. */
  #isHoleAccepted(name, topic) {
    if (topic.askedFrom === topic.offset) {
      this.#emit("subscribed", { topic: name, recovered: false });
      return true;
    }
    topic.askedFrom = topic.offset;
    topic.isLive = false;
    this.#subscribe(name);
    return false;
  }

  #refused({ type, ...complaint }) {
    const { topic } = complaint;
    // The answer to a subscription; asking again would bring the same.
    if (topic !== this.#own && this.#topics.get(topic)?.isLive === false) this.#topics.delete(topic);
    this.#emit("error", complaint);
  }

  #stateChanged(state) {
    if (state !== "open") {
      for (const topic of this.#topics.values()) Object.assign(topic, { isLive: false, askedFrom: null });
      this.#outbox.clear();
      this.#clearTimer();
      // The next connection has its own.
      this.#allowance = SEND_BURST;
    }
    this.#emit("state", state);
  }

  /** The user's own topic is resumed by the URL. */
  #urlFromHere() {
    const topic = this.#topics.get(this.#own);
    const url = new URL(this.#url);
    if (topic && topic.offset !== null) {
      url.searchParams.set("offset", String(topic.offset));
      url.searchParams.set("epoch", topic.epoch);
    }
    return url.href;
  }

  // What is sent ------------------------------------------------------------------------------------------------------

  #subscribe(topic) {
    const { offset, epoch } = this.#topics.get(topic);
    this.#post(`topic ${topic}`, { type: "subscribe", topic, ...(offset !== null && { offset, epoch }) });
  }

  #post(about, frame) {
    // Behind what waits already.
    this.#outbox.delete(about);
    this.#outbox.set(about, frame);
    this.#flush();
  }

  /** Send what the server will take without calling it a flood; the rest a little later. */
  #flush() {
    this.#clearTimer();
    const now = this.#clock.now();
    const earned = ((now - this.#allowanceAt) / 1000) * SENDS_PER_SECOND;
    this.#allowance = Math.min(SEND_BURST, this.#allowance + earned);
    this.#allowanceAt = now;
    const due = [...this.#outbox].slice(0, Math.floor(this.#allowance));
    if (due.length > 0 && this.#link.send(...due.map(([, frame]) => frame))) {
      this.#allowance -= due.length;
      for (const [about] of due) this.#outbox.delete(about);
    }
    if (this.#outbox.size > 0) this.#flushIn(1000 / SENDS_PER_SECOND);
  }

  #flushIn(ms) {
    this.#outboxTimer ??= this.#clock.setTimeout(() => {
      this.#outboxTimer = null;
      this.#flush();
    }, ms);
  }

  #clearTimer() {
    if (this.#outboxTimer !== null) this.#clock.clearTimeout(this.#outboxTimer);
    this.#outboxTimer = null;
  }
}
