/**
 * Short notes at the edge of the page, which leave by themselves; a screen reader reads them out as they come.
 *
 * Owns how many there are and how long. What they say is in the inbox too: nobody has to be quick.
 */

import { isSafeHref } from "./items.js";

/** More than these at once: the oldest leaves. */
const LIMIT = 3;
const SHOWN_MS = 7_000;

/**
 * Show a note.
 *
 * @param {HTMLElement} region The page's live region for them.
 * @param {import("./items.js").Envelope} envelope
 * @param {{isQuiet: boolean}} options Quiet: only read out, for readers who see the open list anyway.
 */
export function showToast(region, envelope, { isQuiet }) {
  const toast = document.createElement("div");
  toast.className = isQuiet ? "signalbox-toast signalbox-hidden" : "signalbox-toast";
  toast.append(textOf(envelope, isQuiet));
  if (!isQuiet) toast.append(closeButton(toast));
  region.append(toast);
  while (region.children.length > LIMIT) region.firstElementChild.remove();
  leaveLater(toast);
}

function textOf(envelope, isQuiet) {
  const text = document.createElement(isSafeHref(envelope.url) && !isQuiet ? "a" : "div");
  if (text.localName === "a") text.href = envelope.url;
  text.className = "signalbox-toast__text";
  if (envelope.title) {
    const title = document.createElement("strong");
    title.textContent = envelope.title;
    text.append(title, " ");
  }
  text.append(envelope.message);
  return text;
}

function closeButton(toast) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "signalbox-toast__close";
  button.ariaLabel = "Close";
  button.textContent = "×";
  button.addEventListener("click", () => toast.remove());
  return button;
}

/** A note that is pointed at or has the focus stays until it is left alone. */
function leaveLater(toast) {
  setTimeout(() => (toast.matches(":hover, :focus-within") ? leaveLater(toast) : toast.remove()), SHOWN_MS);
}
