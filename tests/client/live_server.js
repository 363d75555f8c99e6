/**
 * A model of the server's side of views, for tests of the client: a world of topics whose keys move on a line, processes
 * that know it up to some publication, and connections that write batches in frames of random sizes.
 *
 * Owns what a server may send. Does not own when: the test calls `tick`, `deliver` and `cut`.
 */

/** Random numbers that are the same for the same seed (mulberry32). */
export function randomFrom(seed) {
  let state = seed >>> 0;
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    chance: (probability) => random() < probability,
    below: (count) => Math.floor(random() * count),
    pick: (list) => list[Math.floor(random() * list.length)],
  };
}

const isSeen = (state, { bbox }) => !bbox || (bbox[0] <= state.x && state.x <= bbox[2]);

/** Everything that was published. */
export class World {
  /** Name → the epoch, and its publications in order. */
  topics = new Map();
  #epochs = 0;

  constructor(names) {
    for (const name of names) this.restart(name);
  }

  /** Redis has lost the topic. */
  restart(name) {
    this.topics.set(name, { epoch: `e${++this.#epochs}`, log: [] });
  }

  publish(name, key, x, removed = false) {
    const { log } = this.topics.get(name);
    log.push({ offset: log.length + 1, key, x, removed });
  }

  /** `${topic} ${key}` → the state of each key after the first `count` publications of each topic. */
  states(filter, countOf = () => Infinity) {
    const states = new Map();
    for (const [topic, { epoch, log }] of this.topics) {
      for (const { offset, key, x, removed } of log.slice(0, countOf(topic))) {
        if (removed) states.delete(`${topic} ${key}`);
        else states.set(`${topic} ${key}`, { topic, key, epoch, offset, x });
      }
    }
    for (const [id, state] of states) if (!isSeen(state, filter)) states.delete(id);
    return states;
  }
}

/** A web process and one connection to it. */
export class LiveServer {
  /** Frames that were written and have not arrived: {text, positions in it, view, batch, isComplete}. */
  #queue = [];
  /** Topic → {epoch, count: how many of its publications this process knows, loaded: how many when it began}. */
  #known = new Map();
  /** View id → its state. */
  views = new Map();
  #world;
  #random;
  #socket;
  #named;

  /**
   * `lag`: by how many publications of each topic the process is late at first. `named`: gets the epochs of topics that the
   * client has received.
   */
  constructor({ world, socket, random, lag = 0, named = new Map() }) {
    [this.#world, this.#socket, this.#random, this.#named] = [world, socket, random, named];
    for (const topic of world.topics.keys()) this.#load(topic, lag);
  }

  get queuedCount() {
    return this.#queue.length;
  }

  /** Read what the client has sent. */
  read() {
    for (const frame of this.#socket.takeSent()) {
      if (frame.type === "ping") this.#write({ type: "pong" });
      if (frame.view === undefined) continue;
      const view = this.views.get(frame.view);
      if (frame.type === "unsubscribe") {
        this.views.delete(frame.view);
        this.#write({ type: "unsubscribed", topic: frame.topic, view: frame.view });
      } else if (frame.filter?.bad) {
        this.#write({ type: "error", code: "bad_filter", detail: "filter: bad", topic: "t.*", view: frame.view });
      } else if (frame.type === "subscribe") {
        const { view: id, number, filter, positions } = frame;
        const opened = { id, number, filter, wanted: null, has: null, isBehind: false };
        this.views.set(id, opened);
        this.#write({ type: "subscribed", topic: frame.topic, view: id });
        this.#reset(opened, positions);
      } else if (view) {
        view.wanted = frame;
      }
    }
  }

  /** The process learns of so many later publications of each topic, and writes what changed to views that are not slow. */
  tick({ isSlow = () => false, countLimit = Infinity } = {}) {
    const restarted = [];
    for (const [topic, { epoch, log }] of this.#world.topics) {
      const known = this.#known.get(topic);
      if (known.epoch !== epoch) {
        this.#load(topic, 0);
        restarted.push(topic);
      } else known.count = Math.min(log.length, known.count + countLimit);
    }
    for (const view of this.views.values()) {
      if (isSlow(view) || this.#isWriting(view)) view.isBehind = true;
      else if (view.isBehind && !view.wanted) this.#reset(view);
      else if (!view.isBehind) this.#change(view, restarted);
      if (view.wanted) this.#filter(view);
    }
  }

  /** Let so many frames arrive. */
  deliver(count = Infinity) {
    for (const { text, positions } of this.#queue.splice(0, count)) {
      for (const { topic, epoch } of positions) this.#named.set(topic, epoch);
      this.#socket.text(text);
    }
  }

  #load(topic, lag) {
    const { epoch, log } = this.#world.topics.get(topic);
    const count = Math.max(log.length - lag, 0);
    this.#known.set(topic, { epoch, count, loaded: count });
  }

  #states(filter) {
    const states = this.#world.states(filter, (topic) => this.#known.get(topic).count);
    // A process that has not noticed a new epoch would still have the old states: it is as if it had none.
    for (const [id, { topic, epoch }] of states) if (this.#known.get(topic).epoch !== epoch) states.delete(id);
    return states;
  }

  #isWriting({ id }) {
    return this.#queue.some((frame) => frame.view === id && frame.isComplete && frame.batch !== "changes");
  }

  #filter(view) {
    const { number, filter } = view.wanted;
    const before = view.filter;
    Object.assign(view, { number, filter, wanted: null });
    if (this.#isWriting(view) || view.isBehind) {
      // The client is left between two states.
      if (this.#isWriting(view)) view.has = null;
      this.#queue = this.#queue.filter((frame) => frame.view !== view.id || frame.batch === "changes" || frame.isBegun);
      return this.#reset(view);
    }
    const [old, now] = [this.#states(before), this.#states(filter)];
    const entered = [...now].filter(([id]) => !old.has(id)).map(([, state]) => state);
    const left = [...view.has].filter(([id]) => !now.has(id));
    const positions = this.#positions(new Set(entered.map(({ topic }) => topic)));
    this.#batch(view, "entered", [...left.map(([, state]) => leftLine(state)), ...positions, ...entered.map(messageLine)]);
    view.has = now;
  }

  #change(view, restarted) {
    const now = this.#states(view.filter);
    const changed = [...now].filter(([id, state]) => !isAlike(view.has.get(id), state)).map(([, state]) => state);
    const left = [...view.has].filter(([id]) => !now.has(id)).map(([, state]) => leftLine(state));
    view.has = now;
    const lines = [...this.#positions(restarted), ...left, ...changed.map(messageLine)];
    if (lines.length > 0) this.#batch(view, "changes", lines);
  }

  #reset(view, positions = {}) {
    const now = this.#states(view.filter);
    const lines = [];
    const same = [];
    for (const [id, state] of now) {
      const [offset, epoch] = positions[state.topic] ?? [];
      const isSame = view.has ? isAlike(view.has.get(id), state) : epoch === state.epoch && state.offset <= offset;
      (isSame ? same : lines).push(isSame ? sameLine(state) : messageLine(state));
    }
    const topics = new Set([...now.values()].map(({ topic }) => topic));
    view.has = now;
    view.isBehind = false;
    this.#batch(view, "reset", [...this.#positions(topics), ...lines, ...same]);
  }

  #positions(topics) {
    return [...topics].map((topic) => {
      const { epoch, loaded } = this.#known.get(topic);
      return { type: "position", topic, offset: loaded, epoch };
    });
  }

  #batch({ id, number }, batch, lines) {
    const rest = [...lines];
    do {
      const part = rest.splice(0, 1 + this.#random.below(4));
      const isComplete = rest.length === 0;
      const header = { type: "view", view: id, number, batch, complete: isComplete };
      this.#write(header, ...part);
      Object.assign(this.#queue.at(-1), { view: id, batch, isComplete });
    } while (rest.length > 0);
  }

  #write(...objects) {
    const positions = objects.filter(({ type }) => type === "position");
    this.#queue.push({ positions, text: objects.map((object) => JSON.stringify(object)).join("\n") });
  }
}

const isAlike = (one, other) => one?.epoch === other.epoch && one.offset === other.offset;
const leftLine = ({ topic, key }) => ({ type: "left", topic, keys: [key] });
const sameLine = ({ topic, key }) => ({ type: "same", topic, keys: [key] });
const messageLine = ({ topic, key, offset, epoch, x }) => ({ type: "message", topic, offset, key, data: { x, epoch } });
