/** The distance between the panel and the edge of the window, and between the panel and the button. */
const MARGIN_PX = 12;
const GAP_PX = 8;
const MAX_HEIGHT_PX = 620;
/** If there is less space than this below the button, the panel opens above it, provided that there is more space. */
const ENOUGH_PX = 320;

/**
 * The bell's panel. Its button opens it. The button, Escape, a click outside, or losing the focus closes it.
 *
 * Owns whether it is open, its position, and its keyboard navigation. Does not own its content.
 */
export class Panel {
  #root;
  #button;
  #panel;
  #onOpen;

  /**
   * @param {HTMLElement} root Contains the panel and the link to the inbox, which becomes the button.
   * @param {{onOpen: () => void, signal: AbortSignal}} options The signal stops the panel.
   */
  constructor(root, { onOpen, signal }) {
    this.#root = root;
    this.#panel = root.querySelector("[data-signalbox-panel]");
    this.#onOpen = onOpen;
    const toggle = root.querySelector("[data-signalbox-toggle]");
    // In a page that htmx or Turbo restored from a copy, it is already a button, and the panel may be open.
    this.#button = toggle.localName === "button" ? toggle : this.#makeButton(toggle);
    this.#panel.hidden = true;
    this.#button.ariaExpanded = "false";
    const listen = (target, name, listener) => target.addEventListener(name, listener, { signal });
    listen(this.#button, "click", () => (this.isOpen ? this.close() : this.open()));
    listen(window, "resize", () => this.isOpen && this.#place());
    listen(root, "keydown", (event) => this.#key(event));
    listen(root, "focusout", (event) => {
      // Without a related target, the window has lost the focus, or the focused element was removed.
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

  /** Place the panel next to the button and inside the window, for any position of the bell in the page. */
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
    // One stop for each item: its link, or its button if it has no link.
    const items = [...this.#panel.querySelectorAll("[data-notification-id]")];
    const stops = items.map((item) => [...item.querySelectorAll("a[href], button")].find((stop) => stop.checkVisibility()));
    const present = stops.filter(Boolean);
    const index = present.indexOf(document.activeElement);
    present[index < 0 ? (step > 0 ? 0 : present.length - 1) : index + step]?.focus();
  }
}
