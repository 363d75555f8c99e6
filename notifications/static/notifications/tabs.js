/**
 * Messages between the tabs of one user. Owns the channel between them while the page is shown. Does not own the messages.
 */

export class Tabs {
  #name;
  #onMessage;
  /** @type {BroadcastChannel | null} */
  #channel = null;

  /**
   * @param {string} name The name of the channel. Tabs with the same name receive each other's messages.
   * @param {(message: any) => void} onMessage Called with the messages of other tabs.
   * @param {AbortSignal} signal Closes the channel.
   */
  constructor(name, onMessage, signal) {
    this.#name = name;
    this.#onMessage = onMessage;
    this.#open();
    // A browser drops a page from its back/forward cache if the page receives a message.
    addEventListener("pagehide", () => this.#close(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#open(), { signal });
    signal.addEventListener("abort", () => this.#close());
  }

  /** Send a message to the other tabs. A page in the back/forward cache sends nothing. */
  tell(message) {
    this.#channel?.postMessage(message);
  }

  #open() {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#onMessage(data);
  }

  #close() {
    this.#channel?.close();
    this.#channel = null;
  }
}
