/**
 * The queue of the user's actions: forms of the bell and the inbox that are sent until the server has accepted them.
 *
 * Owns their order, retries while the server is unavailable, and fetching a new CSRF token if the page's is too old.
 * Sending an action twice is safe: the second time has no effect. Does not own what the page shows meanwhile (bell.js).
 */

import { Retry } from "./retry.js";
import { post } from "./server.js";

/** The most actions in the queue; further ones are refused. */
const LIMIT = 100;
const TOKEN = "csrfmiddlewaretoken";
const FORBIDDEN = 403;

/**
 * @typedef {import("./server.js").Outcome | "other-user"} Outcome
 * @typedef {{outcome: Outcome, text: string}} Answer `text`: the server's answer; empty unless "done".
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
   * @param {(isAway: boolean) => void} options.onAway Called when the server becomes unavailable (true), and when all
   *   actions are done after that (false).
   * @param {() => Promise<{outcome: Outcome, token: string}>} options.renew Fetches a new CSRF token, and checks that
   *   the page's user is still signed in.
   */
  constructor({ onAway, renew }) {
    this.#onAway = onAway;
    this.#renew = renew;
    addEventListener("online", () => this.nudge());
  }

  /** Whether actions wait for a server that is unavailable. */
  get isAway() {
    return this.#isAway;
  }

  /**
   * Send a form, and try again until the server answers.
   *
   * @param {string} url
   * @param {FormData} body
   * @returns {Promise<Answer>} Never "away".
   */
  perform(url, body) {
    if (this.#waiting.length >= LIMIT) return Promise.resolve({ outcome: "refused", text: "" });
    return new Promise((resolve) => {
      this.#waiting.push({ url, body, resolve });
      // While the server is unavailable, a click does not shorten the wait before the next try.
      if (!this.#isAway) this.#send();
    });
  }

  /** The server may be available again: send the next action now. */
  nudge() {
    this.#retry.now();
  }

  /** Drop all actions, because the page now belongs to another user. */
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
      // `clear()` was called meanwhile.
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
    // Usually the token is from before the last sign-in. Another user may have signed in.
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
