/**
 * What the reader has done with the forms of the bell and the inbox, until the server has done it too.
 *
 * Owns the order, trying again while the server is away, and a fresh token where the page's own is too old. What is
 * sent twice does nothing the second time. Does not own what the page shows meanwhile (bell.js).
 */

import { Retry } from "./retry.js";
import { post } from "./server.js";

/** Those that wait for the server; beyond, it is told that one was refused. */
const LIMIT = 100;
const TOKEN = "csrfmiddlewaretoken";
const FORBIDDEN = 403;

/**
 * @typedef {import("./server.js").Outcome | "other-user"} Outcome
 * @typedef {{outcome: Outcome, text: string}} Answer `text`: the server's, only if done.
 */

export class Actions {
  /** @type {{url: string, body: FormData, resolve: (answer: Answer) => void}[]} */
  #waiting = [];
  #isSending = false;
  #isAway = false;
  #retry = new Retry(() => this.#send());
  #onAway;
  #renew;

  /**
   * @param {object} options
   * @param {(isAway: boolean) => void} options.onAway The server has been found away, or has done all at last.
   * @param {() => Promise<{outcome: Outcome, token: string}>} options.renew Asks the server for a fresh token, and
   *   whether the page is still the session's user's.
   */
  constructor({ onAway, renew }) {
    this.#onAway = onAway;
    this.#renew = renew;
    addEventListener("online", () => this.nudge());
  }

  /** Whether something waits for a server that is away. */
  get isAway() {
    return this.#isAway;
  }

  /**
   * Have the server do it, however long that takes.
   *
   * @param {string} url
   * @param {FormData} body
   * @returns {Promise<Answer>} Never "away".
   */
  perform(url, body) {
    if (this.#waiting.length >= LIMIT) return Promise.resolve({ outcome: "refused", text: "" });
    return new Promise((resolve) => {
      this.#waiting.push({ url, body, resolve });
      // One that waits for the server is not hurried by the next click.
      if (!this.#isAway) this.#send();
    });
  }

  /** The server may be back: try now. */
  nudge() {
    this.#retry.now();
  }

  /** The page is another user's now. */
  clear() {
    this.#retry.stop();
    for (const { resolve } of this.#waiting.splice(0)) resolve({ outcome: "other-user", text: "" });
    this.#setAway(false);
  }

  async #send() {
    if (this.#isSending) return;
    this.#isSending = true;
    while (this.#waiting.length > 0) {
      const [action] = this.#waiting;
      const answer = await this.#sendOne(action);
      // Cleared meanwhile.
      if (action !== this.#waiting[0]) continue;
      if (answer.outcome === "away") break;
      this.#waiting.shift();
      this.#retry.stop();
      action.resolve(answer);
    }
    this.#isSending = false;
    this.#setAway(this.#waiting.length > 0);
    if (this.#isAway) this.#retry.later();
  }

  /** @returns {Promise<Answer>} */
  async #sendOne({ url, body }) {
    const answer = await post(url, body);
    if (answer.status !== FORBIDDEN) return answer;
    // The usual reason is a token from before the last sign-in, perhaps somebody else's.
    const { outcome, token } = await this.#renew();
    if (outcome !== "done") return { outcome, text: "" };
    body.set(TOKEN, token);
    return post(url, body);
  }

  #setAway(isAway) {
    if (isAway === this.#isAway) return;
    this.#isAway = isAway;
    this.#onAway(isAway);
  }
}
