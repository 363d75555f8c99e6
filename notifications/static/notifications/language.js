/**
 * The language of the page, and what the scripts say in it.
 *
 * Owns the English texts and how the server's translations replace them. Does not own the translations
 * (notifications/bell_texts.py), nor when something is said (bell.js).
 */

const ENGLISH_UNREAD = "Notifications, %(count)s unread";

/** By state of the connection, by what stands in the reader's way, and the rest. */
export const ENGLISH = {
  connecting: "Connecting…",
  open: "Live",
  waiting: "Connection lost. Trying again…",
  closed: "Not connected. Reload the page.",
  away: "Not saved yet: the server cannot be reached. Trying again…",
  "signed-out": "You are signed out. Sign in again, here or in another tab.",
  "other-user": "Somebody else has signed in. Reload the page.",
  refused: "The server did not do this. Reload the page and try again.",
  saved: "Saved.",
  close: "Close",
  /** By number: see `unreadText()`. */
  unread: { 1: ENGLISH_UNREAD, 100: ENGLISH_UNREAD },
};

/** The number whose text serves where the plural rules name no other. */
const OTHER = 100;

/**
 * What the bell says.
 *
 * @param {HTMLElement} root The bell, with the server's translations as JSON.
 * @returns {typeof ENGLISH}
 */
export const textsOf = (root) => ({ ...ENGLISH, ...JSON.parse(root.dataset.signalboxTexts ?? "{}") });

/**
 * The language that an element stands in, for Intl.
 *
 * @param {Element} element
 * @returns {string | undefined} Undefined, which is the browser's own, if the page names none or none that there is.
 */
export function languageOf(element) {
  const language = element.closest("[lang]")?.getAttribute("lang");
  try {
    return Intl.getCanonicalLocales(language || [])[0];
  } catch {
    // Such as "en_US".
    return undefined;
  }
}

/**
 * A number as readers of the language write it.
 *
 * @param {number} number
 * @param {string} [language]
 */
export const numberText = (number, language) => new Intl.NumberFormat(language).format(number);

/**
 * How many are unread, in words: the text of that number, or of one with the same plural category.
 *
 * @param {Record<string, string>} texts By number.
 * @param {number} count
 * @param {string} [language]
 * @returns {string}
 */
export function unreadText(texts, count, language) {
  const rules = new Intl.PluralRules(language);
  const alike = Object.keys(texts).find((number) => rules.select(Number(number)) === rules.select(count));
  return (texts[count] ?? texts[alike] ?? texts[OTHER]).replace("%(count)s", numberText(count, language));
}
