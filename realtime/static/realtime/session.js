/**
 * The client's side of `signalbox.v1` on one connection: its subscriptions, and its position in each topic.
 *
 * Owns positions, resuming, gaps and repeats of plain subscriptions. Does not own filtered ones (views.js), the rate of
 * outgoing objects (outbox.js), the socket (link.js) nor listeners (client.js). Runs in a page or in a worker: all
 * events that it emits are plain data.
 */

import { Link } from "./link.js";
import { Outbox } from "./outbox.js";
import { Views } from "./views.js";

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
 *   Events of a view have its id as `view`. `subscribed` ({view, topic}): the first batch follows. `view` ({view,
 *   batch, number, isComplete, lines}): the objects of one frame. `unsubscribed` ({view, topic, code, detail}): the server has
 *   refused or ended it. `error` ({view, topic, code, detail}): something about it was refused, and it goes on.
 * @param {"state" | "own" | "subscribed" | "unsubscribed" | "message" | "view" | "error"} name
 * @param {any} detail
 */

export class Session {
  /** @type {Map<string, Topic>} */
  #topics = new Map();
  /** The user's own topic, once the server has named it. @type {string | null} */
  #own = null;
  /** Acknowledgements that were not sent yet: topic → offset. */
  #acks = new Map();
  #outbox;
  #views;
  #url;
  #user;
  #emit;
  #link;

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
    const { clock } = environment;
    this.#outbox = new Outbox((...frames) => this.#link.send(...frames), clock);
    this.#views = new Views({ outbox: this.#outbox, emit, clock });
    this.#link = new Link({
      url: () => this.#urlWithPosition(),
      onState: (state) => this.#stateChanged(state),
      onFrame: (frame) => this.#handle(frame),
      onFrameEnd: () => this.#views.end(),
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
    this.#dropAck(topic);
    if (this.state === "open") this.#post(`topic ${topic}`, { type: "unsubscribe", topic });
  }

  /** Acknowledge everything on a topic up to `offset`; sent within a second. */
  ack(topic, offset) {
    const known = this.#topics.get(topic);
    if (!known?.isLive || offset > known.offset) return;
    this.#acks.set(topic, Math.max(offset, this.#acks.get(topic) ?? 0));
    const make = () => {
      const newest = this.#acks.get(topic);
      this.#acks.delete(topic);
      return { type: "ack", topic, offset: newest };
    };
    this.#outbox.hold(`ack ${topic}`, make, ACK_MS);
  }

  /** Report read notifications. @param {number[]} ids @returns {boolean} Whether it was sent. */
  read(ids) {
    return this.state === "open" && this.#link.send({ type: "read", ids });
  }

  /** Subscribe with a filter, across reconnects, or change the filter. @param {{id, topic, filter}} view */
  openView(view) {
    this.#views.open(view);
  }

  /** @param {string} id */
  leaveView(id) {
    this.#views.leave(id);
  }

  /** The page's copy of the items is wrong: get all of them again. @param {string} id */
  refreshView(id) {
    this.#views.refresh(id);
  }

  // From the server ---------------------------------------------------------------------------------------------------

  #handle(frame) {
    if (this.#views.isReceiving && frame?.type !== "error") return this.#views.add(frame);
    const isOfView = frame?.view !== undefined;
    switch (frame?.type) {
      case "hello":
        return this.#hello(frame);
      case "subscribed":
        return isOfView ? this.#views.subscribed(frame) : this.#subscribed(frame);
      case "unsubscribed":
        return isOfView ? this.#views.unsubscribed(frame) : this.#unsubscribed(frame);
      case "message":
        return this.#message(frame);
      case "view":
        return this.#views.begin(frame);
      case "error":
        return isOfView ? this.#views.refused(frame) : this.#refused(frame);
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
    this.#views.connected();
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
    this.#outbox.drop(`topic ${name}`);
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
      this.#acks.clear();
      this.#outbox.clear();
      this.#views.lost();
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
    this.#outbox.put(subject, () => frame);
  }

  #dropAck(topic) {
    this.#acks.delete(topic);
    this.#outbox.drop(`ack ${topic}`);
  }
}
