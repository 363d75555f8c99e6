/**
 * The client's side of `signalbox.v1` on one connection: its subscriptions, and its position in each topic.
 *
 * Owns positions, resuming, gaps and repeats, and the rate of outgoing objects. Does not own the socket (link.js) nor
 * listeners (client.js). Runs in a page or in a worker: all events that it emits are plain data.
 */

import { Link } from "./link.js";

/** How many objects may be sent at once, and per second in the long run. The server's limits (REALTIME) are higher. */
const SEND_BURST = 64;
const SENDS_PER_SECOND = 16;
/** How long acknowledgements are held back: the last one replaces the earlier ones. */
const ACK_MS = 1_000;

/**
 * @typedef {object} Topic
 * @property {number | null} offset Of the last publication received; null until the server has sent a position.
 * @property {string} epoch The epoch of the offset.
 * @property {boolean} isLive Whether publications arrive and continue from `offset`.
 * @property {number | null} askedFrom The offset from which the server was asked to fill a gap.
 *
 * @callback Emit Called with each event of a session; the Connection in `client.js` passes it to its listeners.
 *   `state` (State): the new state. `own` (topic: string): the user's own topic. `subscribed` ({topic, recovered,
 *   lost?}): the topic is live from now on; `recovered` if nothing was missed; `lost`, if known, is the number of lost
 *   publications. `unsubscribed` ({topic, code, detail}): the user has lost the permission for the topic.
 *   `message` ({topic, offset, data}). `error` ({code, detail, topic?}).
 * @param {"state" | "own" | "subscribed" | "unsubscribed" | "message" | "error"} name
 * @param {any} detail
 */

export class Session {
  /** @type {Map<string, Topic>} */
  #topics = new Map();
  /** The user's own topic, once the server has named it. @type {string | null} */
  #own = null;
  /** Objects to be sent, by subject: a later one replaces an earlier one. At most two per topic. */
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
   * @param {string} [options.user] The expected user; if another user is signed in, the session ends.
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
      url: () => this.#urlWithPosition(),
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

  /** Subscribe, and stay subscribed across reconnects. Idempotent. @param {string} topic */
  join(topic) {
    if (this.#topics.has(topic)) return;
    this.#topics.set(topic, { offset: null, epoch: "", isLive: false, askedFrom: null });
    if (this.state === "open") this.#subscribe(topic);
  }

  /** Unsubscribe. @param {string} topic Does nothing for the user's own topic. */
  leave(topic) {
    if (topic === this.#own || !this.#topics.delete(topic)) return;
    this.#outbox.delete(`ack ${topic}`);
    if (this.state === "open") this.#post(`topic ${topic}`, { type: "unsubscribe", topic });
  }

  /** Acknowledge everything on a topic up to `offset`; sent within a second. */
  ack(topic, offset) {
    const known = this.#topics.get(topic);
    if (!known?.isLive || offset > known.offset) return;
    const before = this.#outbox.get(`ack ${topic}`);
    this.#outbox.set(`ack ${topic}`, { type: "ack", topic, offset: Math.max(offset, before?.offset ?? 0) });
    this.#flushIn(ACK_MS);
  }

  /** Report read notifications. @param {number[]} ids @returns {boolean} Whether it was sent. */
  read(ids) {
    return this.state === "open" && this.#link.send({ type: "read", ids });
  }

  // From the server ---------------------------------------------------------------------------------------------------

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
      // The link has handled a pong. Anything else is for a newer client.
    }
  }

  #hello(frame) {
    if (this.#user !== undefined && String(frame.user_id) !== this.#user) {
      this.#emit("error", { code: "other_user", detail: `this page is for user ${this.#user}` });
      return this.close();
    }
    // Servers of earlier releases do not send the topic.
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
    // Never backwards: publications received since the request would be repeated.
    topic.offset = isSame && epoch === topic.epoch ? Math.max(offset, topic.offset) : offset;
    topic.epoch = epoch;
    topic.isLive = true;
    if (!isSame) topic.askedFrom = null;
    this.#emit("subscribed", { topic: name, recovered: isSame, ...(lost !== undefined && { lost }) });
  }

  /** The answer to our request, or, with a code, the server's decision: then we do not subscribe again. */
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
    // While it is not live, an answer is on its way, and this publication follows again after it.
    if (!topic?.isLive) return;
    if (typeof offset === "number") {
      if (offset <= topic.offset) return;
      if (offset !== topic.offset + 1 && !this.#acceptsGap(name, topic)) return;
      topic.offset = offset;
      topic.askedFrom = null;
    }
    this.#emit("message", { topic: name, offset, data });
  }

  /** Publications are missing: ask for them once. If they did not come, continue, and emit `recovered: false`. */
  #acceptsGap(name, topic) {
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
    // The answer to a subscription; asking again would not change it.
    if (topic !== this.#own && this.#topics.get(topic)?.isLive === false) this.#topics.delete(topic);
    this.#emit("error", complaint);
  }

  #stateChanged(state) {
    if (state !== "open") {
      for (const topic of this.#topics.values()) Object.assign(topic, { isLive: false, askedFrom: null });
      this.#outbox.clear();
      this.#clearTimer();
      // The next connection has its own allowance.
      this.#allowance = SEND_BURST;
    }
    this.#emit("state", state);
  }

  /** The URL of the next connection, with the position in the user's own topic. */
  #urlWithPosition() {
    const topic = this.#topics.get(this.#own);
    const url = new URL(this.#url);
    if (topic && topic.offset !== null) {
      url.searchParams.set("offset", String(topic.offset));
      url.searchParams.set("epoch", topic.epoch);
    }
    return url.href;
  }

  // To the server -----------------------------------------------------------------------------------------------------

  #subscribe(topic) {
    const { offset, epoch } = this.#topics.get(topic);
    this.#post(`topic ${topic}`, { type: "subscribe", topic, ...(offset !== null && { offset, epoch }) });
  }

  #post(subject, frame) {
    // At the end of the queue.
    this.#outbox.delete(subject);
    this.#outbox.set(subject, frame);
    this.#flush();
  }

  /** Send as much as the server's rate limit allows, and the rest a little later. */
  #flush() {
    this.#clearTimer();
    const now = this.#clock.now();
    const earned = ((now - this.#allowanceAt) / 1000) * SENDS_PER_SECOND;
    this.#allowance = Math.min(SEND_BURST, this.#allowance + earned);
    this.#allowanceAt = now;
    const due = [...this.#outbox].slice(0, Math.floor(this.#allowance));
    if (due.length > 0 && this.#link.send(...due.map(([, frame]) => frame))) {
      this.#allowance -= due.length;
      for (const [subject] of due) this.#outbox.delete(subject);
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
