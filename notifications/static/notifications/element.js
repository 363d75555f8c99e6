/**
 * The custom element `<signalbox-bell>`.
 *
 * Owns starting a Bell when the element enters the page, and stopping it when the element leaves: by the page's own
 * markup, htmx, Turbo or a script. Does not own what a bell does (bell.js).
 */

import { connection, hold, release } from "./connection.js";

const NAME = "signalbox-bell";

/** False while `define()` starts the bells that were in the page before this script. */
let isDefined = false;

/** @param {typeof import("./bell.js").Bell} Bell Constructed for each element that enters the page. */
export function defineElement(Bell) {
  class BellElement extends HTMLElement {
    /** @type {import("./bell.js").Bell | null} */
    #bell = null;

    connectedCallback() {
      // The browser is still parsing the page, so this element may not have its content yet.
      if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", () => this.#start(), { once: true });
      } else if (isDefined) {
        // A script is replacing the page's content: it may not have inserted everything or removed the former bell yet.
        queueMicrotask(() => this.#start());
      } else {
        // The bell was in the page from the start: start it at once, so that scripts can import the connection.
        this.#start();
      }
    }

    disconnectedCallback() {
      this.#bell?.stop();
      if (this.#bell) release();
      this.#bell = null;
    }

    #start() {
      if (!this.isConnected || this.#bell) return;
      const { signalboxUser: user, signalboxWebsocketUrl: url } = this.dataset;
      const before = connection;
      this.#bell = new Bell(this);
      const held = hold({ user, url });
      this.#bell.follow(held, { isNew: held !== before });
    }
  }
  // The element is already defined if the same script was loaded from a second URL, for example one with a hash.
  if (!customElements.get(NAME)) customElements.define(NAME, BellElement);
  isDefined = true;
}
