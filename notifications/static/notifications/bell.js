/**
 * The bell: keeps the server's rendering of the inbox up to date, on every page that has `{% notification_bell %}`.
 *
 * Owns the counts, the lists and the panel of one bell while it is in the page. The server's data is authoritative:
 * when messages may have been missed, its rendering is fetched again. Does not own the connection (connection.js),
 * items (items.js), the queue of actions (actions.js), or when a bell enters or leaves the page (element.js).
 *
 * The page's own scripts can listen to events on the document. `signalbox:message` (detail: topic, offset, data) is a
 * publication. After `signalbox:resync`, scripts should reload their state. After `signalbox:signedout`, they must no
 * longer show the user's data. Scripts that need other topics import `connection` and subscribe; it is null while there
 * is no bell in the page.
 */

import { SIGNED_OUT } from "../realtime/client.js";
import { Actions } from "./actions.js";
import { defineElement } from "./element.js";
import {
  idOf,
  insertItem,
  isEnvelope,
  isSafeHref,
  itemsIn,
  setState,
  setToken,
  showTimes,
  takeOut,
  tokenIn,
  withSafeUrl,
} from "./items.js";
import { languageOf, numberText, textsOf, unreadText } from "./language.js";
import { Panel } from "./panel.js";
import { Retry } from "./retry.js";
import { getPage, post } from "./server.js";
import { Tabs } from "./tabs.js";
import { clearToasts, regionOf, showNotice, showToast } from "./toasts.js";

export { connection } from "./connection.js";

/** The most ids that are remembered, so that a repeated message counts once. If there are more, the watermark rises. */
const KNOWN_LIMIT = 500;
/** The most items in the inbox's list. If live messages make it longer, its first page is fetched again. */
const LIST_LIMIT = 100;
/** The most messages that are kept during a refresh. If there are more, the refresh is repeated. */
const HELD_LIMIT = 100;
/** After a resync that concerns all pages of the site, each page refreshes after a random part of this time. */
const RESYNC_SPREAD_MS = 3_000;
const TIMES_MS = 30_000;
/** The key in the tab's storage for the time at which the link of a notification was followed. */
const FOLLOWED = "signalbox-followed";
/** When the next page refreshes after that: the request that marks the notification as read may still be running. */
const FOLLOWED_MS = [1_000, 5_000];
/** The largest number on the badge; the label has the exact one. notifications/inbox/queries.py has the same limit. */
const BADGE_LIMIT = 99;
const BELL = "[data-signalbox-bell]";
/** Code of a `signedout` event → name of its text; all other codes have the text "signed-out". */
const TROUBLES = { other_user: "other-user", deactivated: "deactivated" };
/** Problems that mean that the page's user is no longer signed in. */
const LOST = new Set(["signed-out", ...Object.values(TROUBLES)]);

/** The bell in the page. @type {Bell | null} */
let current = null;
/** The user whose actions are in the queue. */
let actor = null;
/** The queue belongs to the page and not to a bell, so that actions stay in it when the bell is replaced. */
const actions = new Actions({
  onAway: (isAway) => current?.serverIsAway(isAway),
  renew: async () => (current ? current.renew() : { outcome: "refused", token: "" }),
});

export class Bell {
  #root;
  /** Removes all listeners of this bell. */
  #stop = new AbortController();
  #connection = null;
  /** The texts in the page's language. @type {typeof import("./language.js").ENGLISH} */
  #texts;
  /** The name of the text for the current problem; null if there is none. @type {string | null} */
  #trouble = null;
  #retry = new Retry(() => this.refresh());
  #panel;
  #toasts;
  /** Notifies the user's other tabs of changes. */
  #tabs;
  /** The newest id that the server's rendering includes. An unknown message with a higher id is new. */
  #watermark;
  /** The ids that are already counted. @type {Set<number>} */
  #known = new Set();
  /** The messages that arrived during a refresh. @type {import("./items.js").Envelope[]} */
  #held = [];
  #isRefreshing = false;
  #isStale = false;
  #isMarkingSeen = false;
  /** The timer of the refresh after a resync. */
  #resyncTimer = null;

  /** @param {HTMLElement} root The element that the template tag rendered. */
  constructor(root) {
    const { signal } = this.#stop;
    this.#root = root;
    this.#texts = textsOf(root);
    this.#watermark = Number(root.dataset.signalboxNewest);
    this.#panel = new Panel(root, { onOpen: () => this.#opened(), signal });
    this.#toasts = regionOf(root, this.#texts.close);
    // In the capture phase, before htmx and Turbo: they would send the form too, and replace the page with the answer.
    document.addEventListener("submit", (event) => this.#submitted(event), { capture: true, signal });
    document.addEventListener("click", (event) => this.#clicked(event), { signal });
    document.addEventListener("auxclick", (event) => this.#clicked(event), { signal });
    document.addEventListener("visibilitychange", () => this.#pageShown(), { signal });
    const refreshIfOther = (version) => version !== this.#version(document) && this.refresh();
    this.#tabs = new Tabs(`signalbox:${root.dataset.signalboxUser}`, refreshIfOther, signal);
    // A page that was just rendered is up to date: it may follow a plain form that marked notifications.
    this.#tabs.tell(this.#version(document));
    showTimes(document);
    const times = setInterval(() => showTimes(document), TIMES_MS);
    signal.addEventListener("abort", () => clearInterval(times));
    if (actor !== root.dataset.signalboxUser) actions.clear();
    actor = root.dataset.signalboxUser;
    current = this;
    if (actions.isAway) this.#say("away");
    this.#refreshAfterFollowing(signal);
  }

  /** The previous page marks the notification whose link was followed as read, perhaps after this page was rendered. */
  #refreshAfterFollowing(signal) {
    let followed = 0;
    try {
      followed = Number(sessionStorage.getItem(FOLLOWED));
      sessionStorage.removeItem(FOLLOWED);
    } catch {
      // The browser stores nothing for this site.
    }
    if (Date.now() - followed > FOLLOWED_MS.at(-1)) return;
    const timers = FOLLOWED_MS.map((ms) => setTimeout(() => this.refresh(), ms));
    signal.addEventListener("abort", () => timers.forEach(clearTimeout));
  }

  /** The bell has left the page: remove its listeners, timers and toasts. */
  stop() {
    this.#stop.abort();
    this.#retry.stop();
    clearTimeout(this.#resyncTimer);
    this.#toasts.remove();
    if (current === this) current = null;
  }

  /**
   * @param {import("../realtime/client.js").Connection} connection
   * @param {{isNew: boolean}} options `isNew`: false if an earlier bell of this page used the connection. That bell may
   *   have received messages after this bell was rendered.
   */
  follow(connection, { isNew }) {
    const listen = (name, listener) => this.#stop.signal.addEventListener("abort", connection.on(name, listener));
    this.#connection = connection;
    this.#showState();
    listen("state", () => this.#showState());
    let isFirst = true;
    listen("resync", () => {
      // The first one follows a page load. Later ones may come to all pages at the same time, so they are delayed.
      this.#resync(isFirst ? 0 : Math.random() * RESYNC_SPREAD_MS);
      isFirst = false;
      // The server is available again.
      actions.nudge();
    });
    if (!isNew) this.#resync(0);
    listen("message", (received) => {
      // The page already knows that the user is signed out, but the server has not closed the connection yet.
      if (this.#isLost) return;
      const publication = withSafeUrl(received);
      if (isEnvelope(publication.data)) this.#receive(publication.data);
      document.dispatchEvent(new CustomEvent("signalbox:message", { detail: publication }));
    });
    listen("signedout", ({ code }) => this.#say(TROUBLES[code] ?? "signed-out"));
    listen("error", ({ code, detail }) => {
      // The page itself shows that the user is signed out.
      if (!SIGNED_OUT.has(code)) console.warn(`signalbox: ${code}: ${detail}`);
    });
  }

  /** The server is unavailable for the user's actions (true), or all of them are done (false). */
  serverIsAway(isAway) {
    if (isAway) this.#say("away");
    else if (this.#trouble === "away") this.#say(null);
  }

  /** Show a problem by the name of its text; null when it is over. */
  #say(trouble) {
    // A deactivated user is signed out too, but "deactivated" explains more.
    if (trouble === "signed-out" && this.#trouble === "deactivated") return;
    const isSaved = this.#trouble === "away" && trouble === null;
    const wasLost = this.#isLost;
    this.#trouble = trouble;
    if (this.#isLost !== wasLost) this.#lostChanged();
    const link = trouble === "signed-out" ? this.#signInLink() : null;
    showNotice(this.#toasts, this.#texts[isSaved ? "saved" : trouble] ?? null, { isPassing: isSaved, link });
    this.#showState();
  }

  #showState() {
    const state = this.#connection?.state ?? "connecting";
    this.#root.dataset.signalboxState = state;
    this.#root.querySelector("[data-signalbox-status]").textContent = this.#texts[this.#trouble] ?? this.#texts[state];
  }

  /** A link to the login page that leads back here; null if its URL is unknown. @returns {HTMLAnchorElement | null} */
  #signInLink() {
    const { signalboxSignInUrl: href } = this.#root.dataset;
    if (!isSafeHref(href)) return null;
    const link = document.createElement("a");
    const url = new URL(href, location.href);
    const { origin, pathname, search } = location;
    url.searchParams.set("next", url.origin === origin ? pathname + search : location.href);
    link.href = url.href;
    link.textContent = this.#texts["sign-in"];
    return link;
  }

  /** When the user returns to this tab, check whether they have signed in again in another tab. */
  #pageShown() {
    if (document.visibilityState === "visible" && this.#isLost) this.refresh();
  }

  /** Whether the page knows that its user is no longer signed in. */
  get #isLost() {
    return LOST.has(this.#trouble);
  }

  /** If the user is signed out, remove the user's data from the page, because another person may be looking at it. */
  #lostChanged() {
    for (const part of [this.#root, ...document.querySelectorAll("[data-signalbox-inbox]")]) {
      part.toggleAttribute("data-signalbox-lost", this.#isLost);
    }
    // After the next sign-in, a refresh restores the items.
    if (!this.#isLost) return;
    for (const list of document.querySelectorAll("[data-signalbox-list], [data-signalbox-pages]")) list.replaceChildren();
    clearToasts(this.#toasts);
    this.#held.length = 0;
    this.#setCounts(0, 0);
    document.dispatchEvent(new CustomEvent("signalbox:signedout"));
  }

  /** Refresh after a delay. Further calls during the delay have no effect. */
  #resync(delayMs) {
    this.#resyncTimer ??= setTimeout(() => {
      this.#resyncTimer = null;
      this.refresh();
      document.dispatchEvent(new CustomEvent("signalbox:resync"));
    }, delayMs);
  }

  /** Show the server's current rendering. There is one request at a time. */
  async refresh() {
    this.#isStale = true;
    if (this.#isRefreshing) return;
    this.#isRefreshing = true;
    let outcome = "done";
    try {
      while (this.#isStale && outcome === "done") {
        this.#isStale = false;
        outcome = await this.#load();
      }
    } finally {
      this.#isRefreshing = false;
      this.#held.length = 0;
    }
    // The server or the network is unavailable. If the connection is lost too, reconnecting also causes a refresh.
    if (outcome === "away" && !this.#stop.signal.aborted) this.#retry.later();
    else this.#retry.stop();
  }

  /** @returns {Promise<import("./actions.js").Outcome>} */
  async #load() {
    // The inbox page contains the bell too.
    const source = document.querySelector("[data-signalbox-inbox]") ?? this.#root;
    const { outcome, page } = await getPage(source.dataset.signalboxFragmentUrl, BELL);
    // This bell has left the page. The next one refreshes itself.
    if (this.#stop.signal.aborted) return outcome;
    if (outcome === "signed-out") this.#say(outcome);
    if (outcome === "refused") console.warn(`signalbox: ${source.dataset.signalboxFragmentUrl} is refused`);
    if (!page) return outcome;
    if (!this.#isMine(page)) {
      this.#say("other-user");
      return "other-user";
    }
    if (this.#isLost) this.#isBack();
    this.#apply(page);
    return outcome;
  }

  /** The page's user is signed in again. */
  #isBack() {
    this.#say(null);
    if (this.#connection?.state === "closed") this.#connection.reconnect();
  }

  /** Fetch a new CSRF token and put it into the page's forms. */
  async renew() {
    const { outcome, page } = await getPage(this.#root.dataset.signalboxFragmentUrl, BELL);
    if (!page) return { outcome, token: "" };
    if (!this.#isMine(page)) return { outcome: "other-user", token: "" };
    setToken(document, tokenIn(page));
    return { outcome, token: tokenIn(page) };
  }

  #isMine(page) {
    return page.querySelector(BELL).dataset.signalboxUser === this.#root.dataset.signalboxUser;
  }

  #apply(rendering) {
    const root = rendering.querySelector(BELL);
    setToken(document, tokenIn(rendering));
    this.#setCounts(Number(root.dataset.signalboxUnread), Number(root.dataset.signalboxUnseen));
    this.#watermark = Number(root.dataset.signalboxNewest);
    for (const list of document.querySelectorAll("[data-signalbox-list]")) {
      const fresh = rendering.querySelector(`[data-signalbox-list="${list.dataset.signalboxList}"]`);
      // An unchanged list is not replaced, so it keeps the focus.
      if (fresh && itemVersions(fresh) !== itemVersions(list)) this.#replaceItems(list, fresh);
    }
    this.#showUpTo();
    const pages = rendering.querySelector("[data-signalbox-pages]");
    if (pages) document.querySelector("[data-signalbox-pages]")?.replaceChildren(...pages.childNodes);
    for (const envelope of this.#held.splice(0)) {
      const isCounted = envelope.id <= this.#watermark;
      // It was committed after a notification with a higher id: the next rendering includes it.
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
      // It is already in the bell's list. The inbox's list may have been read a moment earlier, without it.
      if (shown.dataset.signalboxItemState !== "read") this.#insert(envelope, { isCounted: true });
      return;
    }
    this.#remember(envelope.id);
    // Up to the watermark, only the server knows whether it is counted.
    if (envelope.id <= this.#watermark) return this.refresh();
    if (this.#isRefreshing) this.#hold(envelope);
    this.#insert(envelope, { isCounted: false });
    showToast(this.#toasts, envelope, { isQuiet: this.#panel.isOpen });
    if (this.#panel.isOpen) this.#markSeen();
  }

  #insert(envelope, { isCounted }) {
    for (const list of document.querySelectorAll("[data-signalbox-list][data-signalbox-live]")) {
      // One of the lists may be a moment older than the other.
      if (itemsIn(list, envelope.id).length === 0) insertItem(list, envelope);
      if (list.children.length > LIST_LIMIT) this.refresh();
    }
    if (!isCounted) {
      this.#setCounts(this.#unread + 1, this.#unseen + 1);
      if (envelope.replaces) this.#replaced(envelope.replaces);
    }
    this.#showUpTo();
  }

  /** A newer notification of the same kind and key has replaced and archived this one. */
  #replaced(id) {
    const state = takeOut(document, id);
    // If it is not shown, or was read here meanwhile, only the server knows how it was counted.
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
    event.stopPropagation();
    // The first request is still running.
    if (form.ariaBusy) return;
    form.ariaBusy = "true";
    const { outcome } = await actions.perform(form.action, new FormData(form));
    form.ariaBusy = null;
    // Another bell may have replaced this one meanwhile.
    if (outcome === "done") await current?.acted(action, form);
    else current?.failed(outcome);
  }

  /** An action is done: show the result at once, and fetch the server's rendering. */
  async acted(action, form) {
    if (this.#trouble === "refused") this.#say(null);
    this.#acted(action, form);
    await this.#tellTabs();
  }

  /** The server has refused an action. @param {import("./actions.js").Outcome} outcome */
  failed(outcome) {
    this.#say(outcome);
  }

  #acted(action, form) {
    const list = form.closest("[data-signalbox-list]");
    if (action === "read-all") {
      const upTo = Number(form.elements.namedItem("up_to").value);
      for (const item of itemsIn(document)) if (idOf(item) <= upTo) setState(item, "read");
      // The button in the panel disappears, and the focus would be lost with it.
      if (this.#root.contains(form) && form.contains(document.activeElement)) form.closest("[tabindex]").focus();
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

  /** Following the link of a notification marks it as read. */
  #clicked(event) {
    const link = event.target.closest?.("a[data-signalbox-link][href]");
    const item = link?.closest("[data-notification-id]");
    if (!item || item.dataset.signalboxItemState === "read") return;
    try {
      sessionStorage.setItem(FOLLOWED, String(Date.now()));
    } catch {
      // The browser stores nothing for this site.
    }
    const form = item.querySelector("[data-signalbox-action=read]");
    actions.perform(form.action, new FormData(form)).then(({ outcome }) => outcome === "done" && current?.#tellTabs());
  }

  async #tellTabs() {
    await this.refresh();
    this.#tabs.tell(this.#version(document));
  }

  #opened() {
    // The list shows the same notifications.
    clearToasts(this.#toasts);
    this.#markSeen();
  }

  async #markSeen() {
    if (this.#unseen === 0 || this.#isMarkingSeen) return;
    const ids = itemsIn(this.#root).map(idOf);
    const form = new FormData(this.#root.querySelector("[data-signalbox-action=read-all]"));
    form.set("up_to", String(Math.max(...ids)));
    this.#setCounts(this.#unread, 0);
    this.#isMarkingSeen = true;
    const { outcome } = await post(this.#root.dataset.signalboxSeenUrl, form);
    this.#isMarkingSeen = false;
    if (outcome !== "done" || this.#stop.signal.aborted) return;
    for (const id of ids) {
      for (const item of itemsIn(document, id)) {
        if (item.dataset.signalboxItemState === "unseen") setState(item, "seen");
      }
    }
    this.#tabs.tell(this.#version(document));
    // Mark the notifications that arrived meanwhile.
    if (this.#panel.isOpen) this.#markSeen();
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
    const language = languageOf(this.#root);
    count.textContent = numberText(Math.min(unread, BADGE_LIMIT), language) + (unread > BADGE_LIMIT ? "+" : "");
    count.hidden = unread === 0;
    this.#root.querySelector("[data-signalbox-toggle]").ariaLabel = unreadText(this.#texts.unread, unread, language);
  }

  /** "Mark all as read" includes everything that the page shows, and nothing that arrives later. */
  #showUpTo() {
    for (const input of document.querySelectorAll("[data-signalbox-up-to]")) {
      input.value = String(Math.max(this.#watermark, ...itemsIn(document).map(idOf)));
    }
  }

  #focusNear(list, id) {
    const items = itemsIn(list);
    // The item itself, then older ones, then newer ones. A read item without a link has nothing that can be focused.
    const nearest = [...items.filter((item) => idOf(item) <= id), ...items.filter((item) => idOf(item) > id).reverse()];
    const target = nearest
      .flatMap((item) => [...item.querySelectorAll("a[href], button")])
      .find((element) => element.checkVisibility());
    (target ?? list.closest("[tabindex]") ?? this.#root.querySelector("[data-signalbox-toggle]")).focus();
  }

  #version(page) {
    const root = page.querySelector(BELL);
    return `${root.dataset.signalboxUnread}/${root.dataset.signalboxUnseen} ${itemVersions(root)}`;
  }
}

const itemVersions = (root) => itemsIn(root).map((item) => `${idOf(item)}${item.dataset.signalboxItemState}`).join();

defineElement(Bell);
