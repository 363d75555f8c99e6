/**
 * The filtered subscriptions of one connection: which filter the server knows, and the position in each topic.
 *
 * Owns when a filter is sent, the frames and batches of a view, and from where a view resumes. Does not own the items
 * (store.js), when the connection is open (session.js) nor the rate (outbox.js). Runs in a page or in a worker: all
 * events that it emits are plain data.
 *
 * The server answers a subscription with a `reset` batch, and a later filter with an `entered` batch. Positions advance
 * only with complete batches. So after a lost connection, the newest filter and the positions define what the page has,
 * unless that filter was not answered: then the view is subscribed without positions, and the server sends everything.
 */

/** The shortest time between two filters of a view: the last one replaces the earlier ones. */
const FILTER_MS = 100;
/** The server accepts no more positions, and no larger frame (64 KiB). */
const POSITIONS_LIMIT = 512;
const POSITIONS_CHARACTERS = 40_000;

/**
 * @typedef {{offset: number, epoch: string | undefined}} Position `epoch` is undefined until the server names it.
 *
 * @typedef {object} View
 * @property {string} id
 * @property {string} topic A topic or a family.
 * @property {object} filter The newest.
 * @property {boolean} isUnsent Whether the newest filter was not sent yet.
 * @property {number} number The number of the last filter that was sent.
 * @property {number} sentAt When it was sent.
 * @property {Map<number, object>} unanswered Filters by number.
 * @property {object | null} answered The newest filter that was answered.
 * @property {boolean} isAsked Whether the server was asked for it on this connection.
 * @property {number} askedNumber The number of the filter with which it was asked for.
 * @property {boolean} isLive Whether the server has answered that request.
 * @property {boolean} isResumable Whether the page has everything that the newest filter lets through, up to the
 *   positions.
 * @property {Map<string, Position>} positions After the last complete batch, by topic; the last to advance is last.
 * @property {Map<string, Position>} ahead Positions that the unfinished batch has advanced so far.
 */

export class Views {
  /** @type {Map<string, View>} */
  #views = new Map();
  /** The frame that is being received. @type {{header: object, lines: object[]} | null} */
  #frame = null;
  #isOpen = false;
  #outbox;
  #emit;
  #clock;

  /**
   * @param {object} options
   * @param {import("./outbox.js").Outbox} options.outbox
   * @param {import("./session.js").Emit} options.emit
   * @param {Required<import("./link.js").Environment>["clock"]} options.clock
   */
  constructor({ outbox, emit, clock }) {
    this.#outbox = outbox;
    this.#emit = emit;
    this.#clock = clock;
  }

  /** Subscribe across reconnects; if the view exists, change its filter. */
  open({ id, topic, filter }) {
    const known = this.#views.get(id);
    if (known) {
      Object.assign(known, { filter, isUnsent: true, isResumable: false });
      // Otherwise it is sent with the subscription, or after the answer to that.
      if (known.isLive) this.#sendFilter(known);
      return;
    }
    const view = {
      ...{ id, topic, filter, isUnsent: true, number: 0, sentAt: -Infinity, unanswered: new Map(), answered: null },
      ...{ isAsked: false, askedNumber: 0, isLive: false, isResumable: false, positions: new Map(), ahead: new Map() },
    };
    this.#views.set(id, view);
    if (this.#isOpen) this.#subscribe(view);
  }

  /** Unsubscribe. */
  leave(id) {
    const view = this.#views.get(id);
    this.#views.delete(id);
    this.#outbox.drop(`view ${id}`);
    if (view?.isAsked) this.#unsubscribe(view);
  }

  /** The server has confirmed an item that the page does not have: subscribe again without positions. */
  refresh(id) {
    const view = this.#views.get(id);
    if (!view) return;
    Object.assign(view, { isLive: false, isResumable: false });
    if (!view.isAsked) return;
    this.#unsubscribe(view);
    view.isAsked = false;
    this.#subscribe(view);
  }

  /** The connection is open: subscribe to all. */
  connected() {
    this.#isOpen = true;
    for (const view of this.#views.values()) this.#subscribe(view);
  }

  /** The connection is lost. Called after the outbox was cleared. */
  lost() {
    this.#isOpen = false;
    this.#frame = null;
    for (const view of this.#views.values()) {
      Object.assign(view, { isAsked: false, isLive: false });
      view.unanswered.clear();
      for (const [topic, { epoch }] of view.positions) if (epoch === undefined) view.positions.delete(topic);
    }
  }

  // From the server ---------------------------------------------------------------------------------------------------

  /** Whether the frame that is being received belongs to a view: then all of its objects go to `add`. */
  get isReceiving() {
    return this.#frame !== null;
  }

  /** A frame of a view begins. */
  begin(header) {
    this.#frame = { header, lines: [] };
  }

  /** The next object of the frame. */
  add(line) {
    this.#frame.lines.push(line);
  }

  /** A frame has ended; it may be one that does not belong to a view. */
  end() {
    if (!this.#frame) return;
    const { header, lines } = this.#frame;
    this.#frame = null;
    const view = this.#views.get(header.view);
    // Before the answer to a subscription, frames are those of an earlier one.
    if (!view?.isLive) return;
    for (const line of lines) this.#advance(view, line);
    const isComplete = header.complete === true;
    if (isComplete) this.#completed(view, header.number);
    const { batch, number } = header;
    this.#emit("view", { view: view.id, batch, number, isComplete, lines });
  }

  subscribed({ view: id }) {
    const view = this.#views.get(id);
    if (!view) return;
    view.isLive = true;
    view.ahead.clear();
    this.#emit("subscribed", { view: id, topic: view.topic });
    if (view.isUnsent) this.#sendFilter(view);
  }

  /** The answer to our request, or, with a code, the server's decision: then we do not subscribe again. */
  unsubscribed({ view: id, code, detail }) {
    const view = this.#views.get(id);
    if (!view) return;
    view.isLive = false;
    if (code !== undefined) this.#ended(view, { code, detail });
  }

  /** The server has refused something about a view. */
  refused({ view: id, code, detail, number }) {
    const view = this.#views.get(id);
    // We have left it meanwhile, or this is about a filter that was sent before the last subscription.
    if (!view || (number !== undefined && number < view.askedNumber)) return;
    if (code === "unknown_view") return view.isLive ? this.refresh(id) : undefined;
    if (!view.isLive) return this.#ended(view, { code, detail });
    if (code === "bad_filter") this.#filterRefused(view, number ?? view.number);
    this.#emit("error", { view: id, topic: view.topic, code, detail });
  }

  #ended(view, { code, detail }) {
    this.#views.delete(view.id);
    this.#outbox.drop(`view ${view.id}`);
    this.#emit("unsubscribed", { view: view.id, topic: view.topic, code, detail });
  }

  /** The previous filter stays in force, also after a reconnect, unless there is a newer one. */
  #filterRefused(view, number) {
    const refused = view.unanswered.get(number);
    view.unanswered.delete(number);
    if (view.filter !== refused) return;
    view.filter = [...view.unanswered.values()].at(-1) ?? view.answered;
    view.isResumable = view.unanswered.size === 0;
  }

  /** A batch is complete: the page has everything that the filter of this number lets through. */
  #completed(view, number) {
    for (const [topic, position] of view.ahead) {
      view.positions.delete(topic);
      view.positions.set(topic, position);
    }
    view.ahead.clear();
    for (const [sent, filter] of view.unanswered) {
      if (sent > number) continue;
      view.unanswered.delete(sent);
      view.answered = filter;
    }
    view.isResumable = view.unanswered.size === 0 && !view.isUnsent;
  }

  /** The position after one more object of the current batch. */
  #advance(view, { type, topic, offset, epoch }) {
    if ((type !== "message" && type !== "position") || typeof offset !== "number") return;
    const before = view.ahead.get(topic) ?? view.positions.get(topic);
    const isSameEpoch = type === "message" || before?.epoch === undefined || before.epoch === epoch;
    view.ahead.set(topic, {
      offset: isSameEpoch ? Math.max(offset, before?.offset ?? 0) : offset,
      epoch: type === "message" ? before?.epoch : epoch,
    });
  }

  // To the server -----------------------------------------------------------------------------------------------------

  #subscribe(view) {
    this.#outbox.put(`view ${view.id}`, () => {
      const { topic, id, filter } = view;
      const positions = view.isResumable ? positionsOf(view) : undefined;
      const number = this.#numbered(view);
      Object.assign(view, { isAsked: true, askedNumber: number });
      return { type: "subscribe", topic, view: id, number, filter, ...(positions && { positions }) };
    });
  }

  #sendFilter(view) {
    const make = () => ({ type: "filter", view: view.id, number: this.#numbered(view), filter: view.filter });
    this.#outbox.hold(`view ${view.id}`, make, view.sentAt + FILTER_MS - this.#clock.now());
  }

  #unsubscribe({ id, topic }) {
    this.#outbox.put(`leave ${id}`, () => ({ type: "unsubscribe", topic, view: id }));
  }

  /** The number of the newest filter, which is being sent. */
  #numbered(view) {
    view.number += 1;
    view.unanswered.set(view.number, view.filter);
    view.isUnsent = false;
    view.sentAt = this.#clock.now();
    return view.number;
  }
}

/** The positions that advanced last, as many as the server accepts; undefined if there are none. */
const positionsOf = (view) => {
  const positions = {};
  let [count, characters] = [0, 0];
  for (const [topic, { offset, epoch }] of [...view.positions].reverse()) {
    characters += JSON.stringify([topic, offset, epoch]).length + 2;
    if (count === POSITIONS_LIMIT || characters > POSITIONS_CHARACTERS) break;
    positions[topic] = [offset, epoch];
    count += 1;
  }
  return count > 0 ? positions : undefined;
};
