/**
 * The element `<signalbox-bell>`: the browser says when it is put into the page and when it leaves, whoever does that:
 * the page's own markup, htmx, Turbo, or a script.
 */

import { connection, hold, release } from "./connection.js";

const NAME = "signalbox-bell";

/** False while the bells that were in the page before the script are started. */
let isDefined = false;

/** @param {typeof import("./bell.js").Bell} Bell Made for each bell that comes into the page. */
export function defineElement(Bell) {
  class BellElement extends HTMLElement {
    /** @type {import("./bell.js").Bell | null} */
    #bell = null;

    connectedCallback() {
      // The page is still being read, and with it the inside of this element.
      if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", () => this.#start(), { once: true });
      } else if (isDefined) {
        // Whoever put it in may be amid putting in the rest of the page, and has the former bell still to take out.
        queueMicrotask(() => this.#start());
      } else {
        // There from the beginning: a script that imports the connection finds it.
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
  // The same script from a second address, such as one with a hash in its name.
  if (!customElements.get(NAME)) customElements.define(NAME, BellElement);
  isDefined = true;
}
