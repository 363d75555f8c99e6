/** A timer for repeating failed tries. Owns the length of the waits. */

const FIRST_MS = 2_000;
const LONGEST_MS = 120_000;

export class Retry {
  #run;
  #timer = null;
  #attempt = 0;

  /** @param {() => void} run Makes one try. */
  constructor(run) {
    this.#run = run;
  }

  /** A try failed: run the next one after a wait. The wait doubles with each failure, and half of it is random. */
  later() {
    if (this.#timer !== null) return;
    const bound = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(this.#attempt, 16));
    this.#attempt += 1;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#run();
    }, bound * (0.5 + Math.random() / 2));
  }

  /** Run the next try now, if one is waiting. */
  now() {
    if (this.#timer === null) return;
    this.#clear();
    this.#run();
  }

  /** A try worked, or no more are needed: cancel the timer and reset the wait. */
  stop() {
    this.#clear();
    this.#attempt = 0;
  }

  #clear() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }
}
