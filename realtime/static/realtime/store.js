/**
 * The present state of a filtered subscription: the newest publication of each key that its filter lets through.
 *
 * Owns applying the objects of a view, and reporting what they change. Does not own the view (views.js) nor listeners
 * (live.js).
 *
 * A `reset` batch mentions everything that the filter lets through, so items that it does not mention have left. Items
 * that it only confirms have not changed. So a page that connects again need not redraw them.
 */

/**
 * @typedef {object} Item
 * @property {string} topic
 * @property {string} key
 * @property {number} offset
 * @property {any} data
 *
 * @typedef {object} Change
 * @property {Item[]} items New items, and items that have changed.
 * @property {Map<string, string[]>} left Topic → keys that left; this comes before `items`.
 * @property {boolean} isWrong Whether the server has confirmed an item that is not here.
 */

/** The name of an item in `items`. A topic has no space. */
const idOf = (topic, key) => `${topic} ${key}`;

/** An empty change; its items are by name until it is returned. */
const noChange = () => ({ items: new Map(), left: new Map(), isWrong: false });

export class KeyedStore {
  /** By `${topic} ${key}`. @type {Map<string, Item>} */
  items = new Map();
  /** The epoch of each item's offset, by the same name; undefined if it is not known. */
  #epochOf = new Map();
  /** The present epoch of each topic. */
  #epochs = new Map();
  /** Items of which the server has sent an older state than the one here, which was kept. */
  #isOutdated = new Set();
  /** The `reset` batch that is being received, and the items that it has mentioned. */
  #reset = null;

  /** The server answers a new subscription: a batch that is not complete will not be continued. */
  begin() {
    this.#reset = null;
  }

  /**
   * Apply the objects of one frame.
   *
   * @param {{batch: string, number: number, isComplete: boolean, lines: object[]}} frame
   * @returns {Change}
   */
  apply({ batch, number, isComplete, lines }) {
    // The server may abandon a batch when a new filter arrives. Then another one begins, with that filter's number.
    if (batch !== "reset") this.#reset = null;
    else if (this.#reset?.number !== number) this.#reset = { number, mentioned: new Set() };
    const change = noChange();
    for (const line of lines) this.#applyLine(line, change);
    if (this.#reset && isComplete) {
      const { mentioned } = this.#reset;
      for (const [id, item] of this.items) if (!mentioned.has(id)) this.#remove(item.topic, item.key, change);
      this.#reset = null;
    }
    return { ...change, items: [...change.items.values()] };
  }

  /** Remove everything. @returns {Change} */
  clear() {
    const change = noChange();
    for (const { topic, key } of this.items.values()) this.#remove(topic, key, change);
    this.#epochs.clear();
    this.#reset = null;
    return { ...change, items: [] };
  }

  #applyLine(line, change) {
    switch (line?.type) {
      case "position":
        return this.#epochs.set(line.topic, line.epoch);
      case "message":
        return line.removed ? this.#remove(line.topic, line.key, change) : this.#put(line, change);
      case "left":
        for (const key of line.keys) this.#remove(line.topic, key, change);
        return;
      case "same":
        for (const key of line.keys) this.#confirm(line.topic, key, change);
    }
  }

  #put({ topic, key, offset, data }, change) {
    const id = idOf(topic, key);
    this.#reset?.mentioned.add(id);
    const before = this.items.get(id);
    const epoch = this.#epochs.get(topic);
    const isComparable = before !== undefined && epoch !== undefined && this.#epochOf.get(id) === epoch;
    // After a reconnect, another server may answer that does not have the newest publications yet.
    if (isComparable && offset < before.offset) return this.#isOutdated.add(id);
    this.#isOutdated.delete(id);
    if (isComparable && offset === before.offset) return;
    const item = { topic, key, offset, data };
    this.items.set(id, item);
    this.#epochOf.set(id, epoch);
    change.items.set(id, item);
  }

  #confirm(topic, key, change) {
    const id = idOf(topic, key);
    this.#reset?.mentioned.add(id);
    if (!this.items.has(id) || this.#isOutdated.has(id)) change.isWrong = true;
  }

  #remove(topic, key, change) {
    const id = idOf(topic, key);
    this.#reset?.mentioned.delete(id);
    this.#isOutdated.delete(id);
    this.#epochOf.delete(id);
    change.items.delete(id);
    if (!this.items.delete(id)) return;
    if (!change.left.has(topic)) change.left.set(topic, []);
    change.left.get(topic).push(key);
  }
}
