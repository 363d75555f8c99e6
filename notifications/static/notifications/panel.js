/** Between the panel and the edge of the window, and between it and the button. */
const MARGIN_PX = 12;
const GAP_PX = 8;
const MAX_HEIGHT_PX = 620;
/** With less room than this below the button, the panel opens above it if there is more. */
const ENOUGH_PX = 320;

/**
 * The bell's panel: opened by its button, closed by the button, Escape, or a click or the focus going elsewhere.
 *
 * Owns whether it is open, where it stands, and the keyboard in it. Does not own what is in it.
 */
export class Panel {
  #root;
  #button;
  #panel;
  #onOpen;

  /**
   * @param {HTMLElement} root Holds the link to the inbox, which becomes the button, and the panel.
   * @param {{onOpen: () => void, signal: AbortSignal}} options The signal stops the panel.
   */
  constructor(root, { onOpen, signal }) {
    this.#root = root;
    this.#panel = root.querySelector("[data-signalbox-panel]");
    this.#onOpen = onOpen;
    const toggle = root.querySelector("[data-signalbox-toggle]");
    // In a page that htmx or Turbo restored from a copy, it is a button already, and the panel may be open.
    this.#button = toggle.localName === "button" ? toggle : this.#makeButton(toggle);
    this.#panel.hidden = true;
    this.#button.ariaExpanded = "false";
    const listen = (target, name, listener) => target.addEventListener(name, listener, { signal });
    listen(this.#button, "click", () => (this.isOpen ? this.close() : this.open()));
    listen(window, "resize", () => this.isOpen && this.#place());
    listen(root, "keydown", (event) => this.#key(event));
    listen(root, "focusout", (event) => {
      // No related target: the window lost the focus, or what had it was removed.
      if (event.relatedTarget && !root.contains(event.relatedTarget)) this.close();
    });
    listen(document, "pointerdown", (event) => !root.contains(event.target) && this.close());
  }

  get isOpen() {
    return !this.#panel.hidden;
  }

  open() {
    if (this.isOpen) return;
    this.#panel.hidden = false;
    this.#button.ariaExpanded = "true";
    this.#place();
    this.#panel.focus();
    this.#onOpen();
  }

  close() {
    if (!this.isOpen) return;
    const hadFocus = this.#panel.contains(document.activeElement);
    this.#panel.hidden = true;
    this.#button.ariaExpanded = "false";
    if (hadFocus) this.#button.focus();
  }

  /** Place the panel next to the button and inside the window, wherever the bell is in the page. */
  #place() {
    const { style, classList } = this.#panel;
    const page = document.documentElement;
    const button = this.#button.getBoundingClientRect();
    const below = page.clientHeight - button.bottom - GAP_PX - MARGIN_PX;
    const above = button.top - GAP_PX - MARGIN_PX;
    const isAbove = below < ENOUGH_PX && above > below;
    classList.toggle("signalbox-bell__panel--above", isAbove);
    style.maxBlockSize = `${Math.min(MAX_HEIGHT_PX, isAbove ? above : below)}px`;
    style.translate = "none";
    const { left, width } = this.#panel.getBoundingClientRect();
    const margin = Math.min(MARGIN_PX, (page.clientWidth - width) / 2);
    const inside = Math.max(margin, Math.min(left, page.clientWidth - width - margin));
    style.translate = `${inside - left}px`;
  }

  #makeButton(link) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = link.className;
    button.dataset.signalboxToggle = "";
    button.ariaLabel = link.getAttribute("aria-label");
    button.setAttribute("aria-controls", this.#panel.id);
    button.append(...link.childNodes);
    link.replaceWith(button);
    return button;
  }

  #key(event) {
    if (!this.isOpen) return;
    if (event.key === "Escape") {
      this.close();
      this.#button.focus();
      event.stopPropagation();
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    // One stop an item: its link, or its button if it leads nowhere.
    const items = [...this.#panel.querySelectorAll("[data-notification-id]")];
    const stops = items.map((item) => [...item.querySelectorAll("a[href], button")].find((stop) => stop.checkVisibility()));
    const present = stops.filter(Boolean);
    const index = present.indexOf(document.activeElement);
    present[index < 0 ? (step > 0 ? 0 : present.length - 1) : index + step]?.focus();
  }
}
