/**
 * Short messages at the edge of the page, which screen readers read out: toasts and one notice.
 *
 * Owns how many there are and how long they stay. A toast shows a notification and disappears after some seconds: the
 * inbox has the notification too. The notice shows a problem of the page, and stays until the problem is over. Does not
 * own the texts (language.js).
 */

import { isSafeHref } from "./items.js";

/** The most toasts at a time; the oldest is removed. */
const LIMIT = 3;
const SHOWN_MS = 7_000;
const REGION = "[data-signalbox-toasts]";

/**
 * The page's live region for toasts and the notice, emptied.
 *
 * @param {HTMLElement} root The bell. Its region is moved to the end of the body, because CSS effects of a header, such
 *   as a filter, change the position of a fixed element. In a page that htmx or Turbo restored, it is already there.
 * @param {string} close The label of the button that closes a toast or the notice.
 * @returns {HTMLElement}
 */
export function regionOf(root, close) {
  const present = root.querySelector(REGION) ?? document.querySelector(REGION);
  const region = present ?? document.createElement("div");
  if (!present) {
    Object.assign(region, { className: "signalbox-toasts", role: "status", ariaLive: "polite" });
    region.dataset.signalboxToasts = "";
  }
  // Outside the bell, it does not inherit the bell's language.
  Object.assign(region, { lang: root.lang, dir: root.dir });
  region.dataset.signalboxClose = close;
  region.replaceChildren();
  document.body.append(region);
  return region;
}

/**
 * Show a toast.
 *
 * @param {HTMLElement} region The page's live region.
 * @param {import("./items.js").Envelope} envelope
 * @param {{isQuiet: boolean}} options Quiet: only for screen readers, because the open list shows the notification.
 */
export function showToast(region, envelope, { isQuiet }) {
  const toast = document.createElement("div");
  toast.className = isQuiet ? "signalbox-toast signalbox-hidden" : "signalbox-toast";
  toast.append(textOf(envelope, isQuiet));
  if (!isQuiet) toast.append(closeButton(toast, region));
  region.append(toast);
  while (toastsIn(region).length > LIMIT) toastsIn(region)[0].remove();
  leaveLater(toast);
}

/** Remove all toasts, but not the notice. @param {HTMLElement} region */
export function clearToasts(region) {
  for (const toast of toastsIn(region)) toast.remove();
}

/**
 * Show a notice, and remove the previous one.
 *
 * @param {HTMLElement} region
 * @param {string | null} text Null only removes the previous notice.
 * @param {{isPassing?: boolean, link?: HTMLAnchorElement | null}} [options] Passing: it disappears after some seconds.
 *   `link` is shown after the text.
 */
export function showNotice(region, text, { isPassing = false, link = null } = {}) {
  const present = region.querySelector("[data-signalbox-notice]");
  if (present && present.firstChild.firstChild.textContent === text) return;
  present?.remove();
  if (text === null) return;
  const notice = document.createElement("div");
  notice.className = "signalbox-toast";
  notice.dataset.signalboxNotice = "";
  const words = document.createElement("div");
  words.className = "signalbox-toast__text";
  words.append(text, ...(link ? [" ", link] : []));
  notice.append(words, closeButton(notice, region));
  region.append(notice);
  if (isPassing) leaveLater(notice);
}

const toastsIn = (region) => region.querySelectorAll(":scope > :not([data-signalbox-notice])");

function textOf(envelope, isQuiet) {
  const text = document.createElement(isSafeHref(envelope.url) && !isQuiet ? "a" : "div");
  if (text.localName === "a") text.href = envelope.url;
  text.className = "signalbox-toast__text";
  text.dir = "auto";
  if (envelope.title) {
    const title = document.createElement("strong");
    title.dir = "auto";
    title.textContent = envelope.title;
    text.append(title, " ");
  }
  text.append(envelope.message);
  return text;
}

function closeButton(toast, region) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "signalbox-toast__close";
  button.ariaLabel = region.dataset.signalboxClose;
  button.textContent = "×";
  button.addEventListener("click", () => toast.remove());
  return button;
}

/** Remove a toast or notice after some seconds, but not while the pointer or the focus is on it. */
function leaveLater(toast) {
  setTimeout(() => (toast.matches(":hover, :focus-within") ? leaveLater(toast) : toast.remove()), SHOWN_MS);
}
