/**
 * The language of the page, and the texts of the scripts in that language.
 *
 * Owns the English texts and replacing them with the server's translations. Does not own the translations
 * (notifications/inbox/bell_texts.py) or when a text is shown (bell.js).
 */

const ENGLISH_UNREAD = "Notifications, %(count)s unread";

/** The texts by name: the states of the connection, problems that the user should know of, and others. */
export const ENGLISH = {
  connecting: "Connecting…",
  open: "Live",
  waiting: "Connection lost. Trying again…",
  closed: "Not connected. Reload the page.",
  away: "Not saved yet: the server cannot be reached. Trying again…",
  "signed-out": "You are signed out. Sign in again, here or in another tab.",
  "sign-in": "Sign in",
  deactivated: "Your account is deactivated. Contact the site's administrators.",
  "other-user": "Somebody else has signed in. Reload the page.",
  refused: "The server refused this. Reload the page and try again.",
  saved: "Saved.",
  close: "Close",
  /** Sample number → text: see `unreadText()`. */
  unread: { 1: ENGLISH_UNREAD, 100: ENGLISH_UNREAD },
};

/** The sample number whose text is used if no other has the plural category of the count. */
const OTHER = 100;

/**
 * The texts of the bell.
 *
 * @param {HTMLElement} root The bell, with the server's translations as JSON.
 * @returns {typeof ENGLISH}
 */
export const textsOf = (root) => ({ ...ENGLISH, ...JSON.parse(root.dataset.signalboxTexts ?? "{}") });

/**
 * The language of an element, for Intl.
 *
 * @param {Element} element
 * @returns {string | undefined} Undefined if the page has no `lang` or an invalid one: Intl then uses the browser's.
 */
export function languageOf(element) {
  const language = element.closest("[lang]")?.getAttribute("lang");
  try {
    return Intl.getCanonicalLocales(language || [])[0];
  } catch {
    // An invalid tag, for example "en_US".
    return undefined;
  }
}

/**
 * A number in the format of a language.
 *
 * @param {number} number
 * @param {string} [language]
 */
export const numberText = (number, language) => new Intl.NumberFormat(language).format(number);

/**
 * The label for a number of unread notifications: the text for this number, or for one with the same plural category.
 *
 * @param {Record<string, string>} texts Sample number → text.
 * @param {number} count
 * @param {string} [language]
 * @returns {string}
 */
export function unreadText(texts, count, language) {
  const rules = new Intl.PluralRules(language);
  const alike = Object.keys(texts).find((number) => rules.select(Number(number)) === rules.select(count));
  return (texts[count] ?? texts[alike] ?? texts[OTHER]).replace("%(count)s", numberText(count, language));
}
