/**
 * Notifications as list items, created from the page's <template> and filled with text only.
 *
 * Owns the markup of items and lists. Does not own when an item is added or changed (bell.js).
 */

import { languageOf } from "./language.js";

/**
 * A path or an http(s) URL. Browsers ignore tabs and line breaks and read a backslash as a slash, so "/\t/evil.example"
 * leads to another site: none of these may occur. notifications/content/envelope.py has the same pattern.
 */
const SAFE_HREF = /^(?:\/(?!\/)|https?:\/\/)[^\x00-\x20\x7f\\]*$/i;

const TOKEN_INPUT = "input[name=csrfmiddlewaretoken]";

/** The longest name of an item in the labels of its buttons, which tell screen readers what the buttons act on. */
const NAME_LIMIT = 80;

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/**
 * @typedef {{id: number, kind: string, title: string, message: string, url: string, data: any, created_at: string,
 *   replaces?: number}} Envelope A notification, and the id of the older one that it replaces.
 */

/**
 * Whether a URL is safe in a link. (A "javascript:…" URL would run code when clicked.)
 *
 * @param {unknown} url
 * @returns {boolean}
 */
export const isSafeHref = (url) => typeof url === "string" && SAFE_HREF.test(url);

/**
 * A publication that is safe for page scripts. Any program can publish, so a URL that is unsafe in a link is removed.
 *
 * @template {{data: any}} Publication
 * @param {Publication} publication
 * @returns {Publication}
 */
export const withSafeUrl = (publication) =>
  !publication.data?.url || isSafeHref(publication.data.url)
    ? publication
    : { ...publication, data: { ...publication.data, url: "" } };

const TEXTS = ["kind", "title", "message", "url", "created_at"];

/**
 * Whether the data of a publication is a notification. Any program with access to Redis can publish.
 *
 * @param {any} data
 * @returns {boolean}
 */
export const isEnvelope = (data) =>
  Number.isSafeInteger(data?.id) &&
  data.id > 0 &&
  TEXTS.every((name) => typeof data[name] === "string") &&
  data.message !== "";

/** @param {Element} item @returns {number} */
export const idOf = (item) => Number(item.dataset.notificationId);

/**
 * The items of a list, or those of one notification in a whole document.
 *
 * @param {ParentNode} root
 * @param {number} [id]
 * @returns {HTMLElement[]}
 */
export const itemsIn = (root, id) => [
  ...root.querySelectorAll(id === undefined ? "[data-notification-id]" : `[data-notification-id="${id}"]`),
];

/**
 * Remove a replaced notification from all lists.
 *
 * @param {ParentNode} root
 * @param {number} id
 * @returns {"unseen" | "seen" | "read" | null} The state that it was shown in; null if it was not shown.
 */
export function takeOut(root, id) {
  const items = itemsIn(root, id);
  for (const item of items) item.remove();
  return items.length > 0 ? items[0].dataset.signalboxItemState : null;
}

/** The CSRF token in the forms of a rendering; "" if the project does not use one. */
export const tokenIn = (root) => root.querySelector(`[data-signalbox-action] ${TOKEN_INPUT}`)?.value ?? "";

/** Put this CSRF token into all forms of the bell and the inbox. Django refuses tokens from before the last sign-in. */
export function setToken(root, token) {
  for (const input of root.querySelectorAll(`[data-signalbox-action] ${TOKEN_INPUT}`)) input.value = token;
  for (const { content } of root.querySelectorAll("[data-signalbox-template]")) setToken(content, token);
}

/** @param {Element} item @param {"unseen" | "seen" | "read"} state */
export function setState(item, state) {
  item.dataset.signalboxItemState = state;
}

/**
 * Insert a new notification into a list, ordered by id. If the list exceeds its limit, its last items are removed.
 *
 * @param {HTMLElement} list
 * @param {Envelope} envelope
 */
export function insertItem(list, envelope) {
  const template = list.ownerDocument.querySelector(`[data-signalbox-template="${list.dataset.signalboxList}"]`);
  const item = template.content.firstElementChild.cloneNode(true);
  fillItem(item, envelope);
  list.insertBefore(item, itemsIn(list).find((other) => idOf(other) < envelope.id) ?? null);
  // Only now, because the language comes from the list's ancestors.
  showTimes(item);
  const limit = Number(list.dataset.signalboxLimit) || Infinity;
  while (list.children.length > limit) list.lastElementChild.remove();
}

/**
 * @param {HTMLElement} item As cloned from the template.
 * @param {Envelope} envelope
 */
function fillItem(item, envelope) {
  item.dataset.notificationId = String(envelope.id);
  item.dataset.kind = envelope.kind;
  item.querySelector("[data-signalbox-title]").textContent = envelope.title;
  item.querySelector("[data-signalbox-message]").textContent = envelope.message;
  if (isSafeHref(envelope.url)) item.querySelector("[data-signalbox-link]").setAttribute("href", envelope.url);
  item.querySelector("time").dateTime = envelope.created_at;
  for (const input of item.querySelectorAll("input[name=id]")) input.value = String(envelope.id);
  const name = Array.from(envelope.title || envelope.message).slice(0, NAME_LIMIT).join("");
  for (const button of item.querySelectorAll("button")) button.ariaLabel = `${button.title}: ${name}`;
}

/**
 * Show all times under `root` in the page's language and the browser's time zone. The server renders them in its own.
 *
 * @param {ParentNode} root
 * @param {Date} [now]
 */
export function showTimes(root, now = new Date()) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    if (Number.isNaN(time.valueOf())) continue;
    const language = languageOf(element);
    element.textContent = timeText(time, now, language);
    element.title = time.toLocaleString(language);
  }
}

/**
 * How long ago a time was; after a day, its date.
 *
 * @param {Date} time
 * @param {Date} now
 * @param {string} [language]
 * @returns {string}
 */
export function timeText(time, now, language) {
  const ago = now - time;
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  if (ago < MINUTE_MS) return relative.format(0, "second");
  if (ago < HOUR_MS) return relative.format(-Math.floor(ago / MINUTE_MS), "minute");
  if (ago < DAY_MS) return relative.format(-Math.floor(ago / HOUR_MS), "hour");
  return time.toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}
