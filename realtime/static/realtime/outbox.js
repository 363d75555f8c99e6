/**
 * The objects that wait to be sent: at most one of each subject, and no more per second than the server allows.
 *
 * Owns their order, their rate and which object a later one replaces. Does not own the objects (session.js, views.js) nor the
 * socket (link.js).
 */

/** How many objects may be sent at once, and per second in the long run. The server's limits (REALTIME) are higher. */
const SEND_BURST = 64;
const SENDS_PER_SECOND = 16;

/**
 * @typedef {object} Entry
 * @property {() => object} make Returns the object, just before it is sent.
 * @property {number} dueAt The earliest time at which it is sent.
 */

export class Outbox {
  /** By subject, in the order in which they are sent. @type {Map<string, Entry>} */
  #entries = new Map();
  #allowance = SEND_BURST;
  #allowanceAt;
  #timer = null;
  /** When the timer is due. */
  #timerAt = Infinity;
  #send;
  #clock;

  /**
   * @param {(...frames: object[]) => boolean} send Returns whether they were sent.
   * @param {Required<import("./link.js").Environment>["clock"]} clock
   */
  constructor(send, clock) {
    this.#send = send;
    this.#clock = clock;
    this.#allowanceAt = clock.now();
  }

  /** Send it as soon as the rate allows, after all others. It replaces an unsent one of the same subject. */
  put(subject, make) {
    this.#entries.delete(subject);
    this.#entries.set(subject, { make, dueAt: this.#clock.now() });
    this.#flush();
  }

  /** Send it `ms` from now. It takes the place and the time of an unsent one of the same subject. */
  hold(subject, make, ms) {
    const dueAt = this.#entries.get(subject)?.dueAt ?? this.#clock.now() + Math.max(ms, 0);
    this.#entries.set(subject, { make, dueAt });
    if (dueAt <= this.#clock.now()) this.#flush();
    else this.#flushAt(dueAt);
  }

  /** Send nothing of this subject. */
  drop(subject) {
    this.#entries.delete(subject);
  }

  /** Drop everything. The next connection has its own allowance. */
  clear() {
    this.#entries.clear();
    this.#clearTimer();
    this.#allowance = SEND_BURST;
  }

  /** Send as much as the server's rate limit allows, and the rest a little later. */
  #flush() {
    this.#clearTimer();
    const now = this.#clock.now();
    const earned = ((now - this.#allowanceAt) / 1000) * SENDS_PER_SECOND;
    this.#allowance = Math.min(SEND_BURST, this.#allowance + earned);
    this.#allowanceAt = now;
    const due = [...this.#entries].filter(([, { dueAt }]) => dueAt <= now).slice(0, Math.floor(this.#allowance));
    // It fails only while the socket is closing, and then all of this is done again on the next one.
    if (due.length > 0 && this.#send(...due.map(([, { make }]) => make()))) {
      this.#allowance -= due.length;
      for (const [subject] of due) this.#entries.delete(subject);
    }
    for (const { dueAt } of this.#entries.values()) this.#flushAt(Math.max(dueAt, now + 1000 / SENDS_PER_SECOND));
  }

  #flushAt(at) {
    if (at >= this.#timerAt) return;
    this.#clearTimer();
    this.#timerAt = at;
    this.#timer = this.#clock.setTimeout(() => this.#flush(), at - this.#clock.now());
  }

  #clearTimer() {
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer);
    this.#timer = null;
    this.#timerAt = Infinity;
  }
}
