/**
 * The bell: makes the server's rendering of the inbox live, on every page that has `{% notification_bell %}`.
 *
 * Owns the counts, the lists and the panel while the page is open. The server owns the truth: whenever something may
 * have been missed, its rendering is fetched again. Does not own the connection (client.js) nor items (items.js).
 *
 * For the page's own scripts: each publication is a `signalbox:message` event on the document (detail: topic, offset,
 * data), each moment from which they had better read their state anew a `signalbox:resync` event. Those that want other
 * topics import `connection` and subscribe.
 */

import { connect } from "../realtime/client.js";
import { idOf, insertItem, itemsIn, setState, showTimes, takeOut, withSafeUrl } from "./items.js";
import { Panel } from "./panel.js";
import { Tabs } from "./tabs.js";
import { showToast } from "./toasts.js";

/** Ids remembered so that a repeated message counts once; beyond, the oldest fall under the watermark. */
const KNOWN_LIMIT = 500;
/** Items in the inbox's list, as live messages lengthen it; beyond, its first page is fetched anew. */
const LIST_LIMIT = 100;
/** Messages kept while the server's rendering is on its way; beyond, it is fetched once more. */
const HELD_LIMIT = 100;
const RETRY_MS = 5_000;
/** What every page of the site may have missed, each reads anew at a moment of its own within so long. */
const RESYNC_SPREAD_MS = 3_000;
const TIMES_MS = 30_000;

const STATUS = {
  connecting: "Connecting…",
  open: "Live",
  waiting: "Connection lost. Trying again…",
  closed: "Not connected. Reload the page.",
};

export class Bell {
  #root;
  #panel;
  #toasts;
  /** Tells the same user's other tabs that something was read or put away. */
  #tabs;
  /** The newest id that the server's rendering speaks of: what is above it and unknown is new. */
  #watermark;
  /** Ids that are counted already. @type {Set<number>} */
  #known = new Set();
  /** What came while the server's rendering was on its way. @type {import("./items.js").Envelope[]} */
  #held = [];
  #isRefreshing = false;
  #isStale = false;
  #isMarkingSeen = false;
  /** The refresh after a resync, while it is put off. */
  #resyncTimer = null;

  /** @param {HTMLElement} root The element that the template tag rendered. */
  constructor(root) {
    this.#root = root;
    this.#watermark = Number(root.dataset.signalboxNewest);
    this.#toasts = root.querySelector("[data-signalbox-toasts]");
    this.#panel = new Panel(root, { onOpen: () => this.#opened() });
    // Out of the header, whose own effects would else hold a fixed element.
    document.body.append(this.#toasts);
    document.addEventListener("submit", (event) => this.#submitted(event));
    document.addEventListener("click", (event) => this.#clicked(event));
    document.addEventListener("auxclick", (event) => this.#clicked(event));
    const refreshIfOther = (version) => version !== this.#version(document) && this.refresh();
    this.#tabs = new Tabs(`signalbox:${root.dataset.signalboxUser}`, refreshIfOther);
    // A page that was just made knows best: it may come from a plain form that marked something.
    this.#tabs.tell(this.#version(document));
    showTimes(document);
    setInterval(() => showTimes(document), TIMES_MS);
  }

  /** @param {import("../realtime/client.js").Connection} connection */
  follow(connection) {
    const showState = (state) => {
      this.#root.dataset.signalboxState = state;
      this.#root.querySelector("[data-signalbox-status]").textContent = STATUS[state];
    };
    showState(connection.state);
    connection.on("state", showState);
    let isFirst = true;
    connection.on("resync", () => {
      // The page is new, and nobody else's is.
      this.#resync(isFirst ? 0 : Math.random() * RESYNC_SPREAD_MS);
      isFirst = false;
    });
    connection.on("message", (received) => {
      const publication = withSafeUrl(received);
      this.#receive(publication.data);
      document.dispatchEvent(new CustomEvent("signalbox:message", { detail: publication }));
    });
    connection.on("error", ({ code, detail }) => console.warn(`signalbox: ${code}: ${detail}`));
  }

  /** Several within the delay are one. */
  #resync(delayMs) {
    this.#resyncTimer ??= setTimeout(() => {
      this.#resyncTimer = null;
      this.refresh();
      document.dispatchEvent(new CustomEvent("signalbox:resync"));
    }, delayMs);
  }

  /** Show the inbox as the server has it now; one request at a time. */
  async refresh() {
    this.#isStale = true;
    if (this.#isRefreshing) return;
    this.#isRefreshing = true;
    try {
      while (this.#isStale) {
        this.#isStale = false;
        const rendering = await this.#fetchRendering();
        if (rendering) this.#apply(rendering);
      }
    } catch {
      // The server or the network is away; if the connection is lost as well, its return will call again.
      setTimeout(() => this.refresh(), RETRY_MS * (1 + Math.random()));
    } finally {
      this.#isRefreshing = false;
      this.#held.length = 0;
    }
  }

  async #fetchRendering() {
    // The inbox page carries the bell as well.
    const source = document.querySelector("[data-signalbox-inbox]") ?? this.#root;
    const response = await fetch(source.dataset.signalboxFragmentUrl, { cache: "no-store" });
    // To the login page: signed out elsewhere.
    if (response.redirected) return null;
    if (!response.ok) throw new Error(`the inbox answered ${response.status}`);
    return new DOMParser().parseFromString(await response.text(), "text/html");
  }

  #apply(rendering) {
    const root = rendering.querySelector("[data-signalbox-bell]");
    if (root?.dataset.signalboxUser !== this.#root.dataset.signalboxUser) return;
    this.#setCounts(Number(root.dataset.signalboxUnread), Number(root.dataset.signalboxUnseen));
    this.#watermark = Number(root.dataset.signalboxNewest);
    for (const list of document.querySelectorAll("[data-signalbox-list]")) {
      const fresh = rendering.querySelector(`[data-signalbox-list="${list.dataset.signalboxList}"]`);
      // What is the same stays, and with it the focus.
      if (fresh && itemVersions(fresh) !== itemVersions(list)) this.#replaceItems(list, fresh);
    }
    this.#showUpTo();
    const pages = rendering.querySelector("[data-signalbox-pages]");
    if (pages) document.querySelector("[data-signalbox-pages]").replaceChildren(...pages.childNodes);
    for (const envelope of this.#held.splice(0)) {
      const isCounted = envelope.id <= this.#watermark;
      // Committed later than a higher id: the next rendering has it.
      if (isCounted && itemsIn(this.#root, envelope.id).length === 0) this.#isStale = true;
      else this.#insert(envelope, { isCounted });
    }
    if (this.#panel.isOpen) this.#markSeen();
  }

  #replaceItems(list, fresh) {
    const focused = list.contains(document.activeElement) && document.activeElement.closest("[data-notification-id]");
    list.replaceChildren(...fresh.children);
    showTimes(list);
    if (focused) this.#focusNear(list, idOf(focused));
  }

  /** @param {import("./items.js").Envelope} envelope */
  #receive(envelope) {
    if (this.#known.has(envelope.id)) return;
    const [shown] = itemsIn(this.#root, envelope.id);
    if (shown) {
      // Rendered already; in the inbox's list too, unless that was read a moment before the bell's.
      if (shown.dataset.signalboxItemState !== "read") this.#insert(envelope, { isCounted: true });
      return;
    }
    this.#remember(envelope.id);
    // At or under the watermark it may be counted already, or not: the server knows.
    if (envelope.id <= this.#watermark) return this.refresh();
    if (this.#isRefreshing) this.#hold(envelope);
    this.#insert(envelope, { isCounted: false });
    showToast(this.#toasts, envelope, { isQuiet: this.#panel.isOpen });
    if (this.#panel.isOpen) this.#markSeen();
  }

  #insert(envelope, { isCounted }) {
    for (const list of document.querySelectorAll("[data-signalbox-list][data-signalbox-live]")) {
      // One list of a rendering may be a moment older than the other.
      if (itemsIn(list, envelope.id).length === 0) insertItem(list, envelope);
      if (list.children.length > LIST_LIMIT) this.refresh();
    }
    if (!isCounted) {
      this.#setCounts(this.#unread + 1, this.#unseen + 1);
      if (envelope.replaces) this.#replaced(envelope.replaces);
    }
    this.#showUpTo();
  }

  /** An unread one was archived by a newer one of its kind and key. */
  #replaced(id) {
    const state = takeOut(document, id);
    // Of what is not shown, or was read here while it was replaced, the server knows how it was counted.
    if (state === null || state === "read") this.refresh();
    else this.#setCounts(this.#unread - 1, this.#unseen - (state === "unseen" ? 1 : 0));
  }

  #remember(id) {
    this.#known.add(id);
    if (this.#known.size <= KNOWN_LIMIT) return;
    const [oldest] = this.#known;
    this.#known.delete(oldest);
    this.#watermark = Math.max(this.#watermark, oldest);
  }

  #hold(envelope) {
    if (this.#held.length < HELD_LIMIT) this.#held.push(envelope);
    else this.#isStale = true;
  }

  async #submitted(event) {
    const form = event.target;
    const action = form.dataset.signalboxAction;
    if (!action) return;
    event.preventDefault();
    if (!(await this.#post(form.action, new FormData(form)))) {
      // As without JavaScript: the browser shows whatever stands in the way, such as the login page.
      const next = form.elements.namedItem("next");
      if (next) next.value = location.pathname + location.search;
      form.submit();
      return;
    }
    this.#acted(action, form);
    await this.#tellTabs();
  }

  /** Show at once what the form has done; the server's rendering follows. */
  #acted(action, form) {
    const list = form.closest("[data-signalbox-list]");
    if (action === "read-all") {
      const upTo = Number(form.elements.namedItem("up_to").value);
      for (const item of itemsIn(document)) if (idOf(item) <= upTo) setState(item, "read");
      return;
    }
    const id = idOf(form.closest("[data-notification-id]"));
    const hadFocus = form.contains(document.activeElement);
    for (const item of itemsIn(document, id)) {
      if (action === "archive") item.remove();
      else setState(item, "read");
    }
    if (hadFocus) this.#focusNear(list, id);
  }

  /** Whoever follows a notification has read it. */
  #clicked(event) {
    const link = event.target.closest?.("a[data-signalbox-link][href]");
    const item = link?.closest("[data-notification-id]");
    if (!item || item.dataset.signalboxItemState === "read") return;
    const form = item.querySelector("[data-signalbox-action=read]");
    this.#post(form.action, new FormData(form)).then((isDone) => isDone && this.#tellTabs());
  }

  async #tellTabs() {
    await this.refresh();
    this.#tabs.tell(this.#version(document));
  }

  #opened() {
    // The list says it now.
    this.#toasts.replaceChildren();
    this.#markSeen();
  }

  async #markSeen() {
    if (this.#unseen === 0 || this.#isMarkingSeen) return;
    const ids = itemsIn(this.#root).map(idOf);
    const form = new FormData(this.#root.querySelector("[data-signalbox-action=read-all]"));
    form.set("up_to", String(Math.max(...ids)));
    this.#setCounts(this.#unread, 0);
    this.#isMarkingSeen = true;
    const isDone = await this.#post(this.#root.dataset.signalboxSeenUrl, form);
    this.#isMarkingSeen = false;
    if (!isDone) return;
    for (const id of ids) {
      for (const item of itemsIn(document, id)) {
        if (item.dataset.signalboxItemState === "unseen") setState(item, "seen");
      }
    }
    this.#tabs.tell(this.#version(document));
    // What came meanwhile.
    if (this.#panel.isOpen) this.#markSeen();
  }

  /** @returns {Promise<boolean>} Whether the server did it. */
  async #post(url, body) {
    try {
      const headers = { Accept: "application/json" };
      const response = await fetch(url, { method: "POST", body, headers, keepalive: true });
      return response.ok && !response.redirected;
    } catch {
      return false;
    }
  }

  get #unread() {
    return Number(this.#root.dataset.signalboxUnread);
  }

  get #unseen() {
    return Number(this.#root.dataset.signalboxUnseen);
  }

  #setCounts(unread, unseen) {
    Object.assign(this.#root.dataset, { signalboxUnread: unread, signalboxUnseen: unseen });
    const count = this.#root.querySelector("[data-signalbox-count]");
    count.textContent = String(unread);
    count.hidden = unread === 0;
    this.#root.querySelector("[data-signalbox-toggle]").ariaLabel = `Notifications, ${unread} unread`;
  }

  /** "Mark all as read" means all that the page shows, and nothing that comes a moment later. */
  #showUpTo() {
    for (const input of document.querySelectorAll("[data-signalbox-up-to]")) {
      input.value = String(Math.max(this.#watermark, ...itemsIn(document).map(idOf)));
    }
  }

  #focusNear(list, id) {
    const items = itemsIn(list);
    const item = items.find((other) => idOf(other) <= id) ?? items.at(-1);
    const target = [...(item?.querySelectorAll("a[href], button") ?? [])].find((element) => element.checkVisibility());
    (target ?? list.closest("[tabindex]") ?? this.#root.querySelector("[data-signalbox-toggle]")).focus();
  }

  #version(page) {
    const root = page.querySelector("[data-signalbox-bell]");
    return `${root.dataset.signalboxUnread}/${root.dataset.signalboxUnseen} ${itemVersions(root)}`;
  }
}

const itemVersions = (root) => itemsIn(root).map((item) => `${idOf(item)}${item.dataset.signalboxItemState}`).join();

const root = document.querySelector("[data-signalbox-bell]");

/** The page's connection; null where there is no bell. */
export const connection = root && connect({ user: root.dataset.signalboxUser, url: root.dataset.signalboxWebsocketUrl });
if (root) new Bell(root).follow(connection);
