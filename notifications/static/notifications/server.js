/**
 * Requests of the page's scripts to the site's own server, and what came of them.
 *
 * Owns telling the outcomes apart. Whatever is answered, the page stays: nothing here navigates. Does not own when a
 * request is made, nor how often (actions.js, retry.js).
 */

import { parseHtml } from "../realtime/trusted.js";

/** Statuses below 500 after which the same request may work a little later. */
const PASSING = new Set([408, 425, 429]);

/**
 * @typedef {"done" | "away" | "signed-out" | "refused"} Outcome
 *   `away`: no answer, or none from the site itself; asking again may help. `signed-out`: nobody is signed in.
 *   `refused`: the server does not want it so, and will not a second time.
 *
 * @typedef {{outcome: Outcome, status: number, text: string}} Answer `text`: only if done.
 */

/**
 * Send a request and say what came of it; never throws.
 *
 * @param {string} url
 * @param {RequestInit} [options]
 * @returns {Promise<Answer>}
 */
export async function ask(url, options) {
  try {
    // A redirect is the way to the login page, perhaps of another site: not followed, so that it is not mistaken.
    const response = await fetch(url, { redirect: "manual", cache: "no-store", ...options });
    const { status } = response;
    if (response.type === "opaqueredirect" || status === 401) return { outcome: "signed-out", status, text: "" };
    if (response.ok) return { outcome: "done", status, text: await response.text() };
    return { outcome: status >= 500 || PASSING.has(status) ? "away" : "refused", status, text: "" };
  } catch {
    return { outcome: "away", status: 0, text: "" };
  }
}

/**
 * Send a form; the server answers with JSON.
 *
 * @param {string} url
 * @param {FormData} body
 * @returns {Promise<Answer>}
 */
export async function post(url, body) {
  const headers = { Accept: "application/json" };
  // It outlives the page: whoever follows a link has read the notification.
  const answer = await ask(url, { method: "POST", body, headers, keepalive: true });
  // Such as the page of a hotel's network, which answers everything.
  if (answer.outcome === "done" && !isJson(answer.text)) return { ...answer, outcome: "away" };
  return answer;
}

/**
 * Get a page of the site, as a document that runs nothing.
 *
 * @param {string} url
 * @param {string} selector What it must have to be that page.
 * @returns {Promise<{outcome: Outcome, page: Document | null}>} `page`: only if done.
 */
export async function getPage(url, selector) {
  const { outcome, text } = await ask(url);
  if (outcome !== "done") return { outcome, page: null };
  let page;
  try {
    page = parseHtml(text);
  } catch (error) {
    // The page's Trusted Types do not allow it, and will not later.
    console.warn(`signalbox: ${url} cannot be read: ${error}`);
    return { outcome: "refused", page: null };
  }
  return page.querySelector(selector) ? { outcome, page } : { outcome: "away", page: null };
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
