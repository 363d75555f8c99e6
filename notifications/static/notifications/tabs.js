/**
 * What the tabs of one user tell each other. Owns the channel between them, while the page is shown.
 */

export class Tabs {
  #name;
  #onMessage;
  /** @type {BroadcastChannel | null} */
  #channel = null;

  /**
   * @param {string} name Of the channel; tabs of the same name hear each other.
   * @param {(message: any) => void} onMessage Another tab has said this.
   * @param {AbortSignal} signal Stops the exchange with other tabs.
   */
  constructor(name, onMessage, signal) {
    this.#name = name;
    this.#onMessage = onMessage;
    this.#open();
    // The browser throws a page away that it keeps for the back button, when that is told something.
    addEventListener("pagehide", () => this.#close(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#open(), { signal });
    signal.addEventListener("abort", () => this.#close());
  }

  /** Tell the others. A page that is put away says nothing. */
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
