/** Trying again: one timer, however often something fails. Owns when. */

const FIRST_MS = 2_000;
const LONGEST_MS = 120_000;

export class Retry {
  #run;
  #timer = null;
  #attempt = 0;

  /** @param {() => void} run What is tried again. */
  constructor(run) {
    this.#run = run;
  }

  /** It failed: run it after a wait, which doubles from failure to failure and is random by half. */
  later() {
    if (this.#timer !== null) return;
    const bound = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(this.#attempt, 16));
    this.#attempt += 1;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#run();
    }, bound * (0.5 + Math.random() / 2));
  }

  /** Something has changed: if it waits, run it now. */
  now() {
    if (this.#timer === null) return;
    this.#clear();
    this.#run();
  }

  /** It worked, or is no longer wanted: the next failure waits as the first. */
  stop() {
    this.#clear();
    this.#attempt = 0;
  }

  #clear() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }
}
