/**
 * Requests of the page's scripts to the site's server.
 *
 * Owns what an answer means. No answer makes the page navigate. Does not own when or how often a request is made
 * (actions.js, retry.js).
 */

import { parseHtml } from "../realtime/trusted.js";

/** Statuses below 500 after which the same request may work later. */
const PASSING = new Set([408, 425, 429]);

/**
 * @typedef {"done" | "away" | "signed-out" | "refused"} Outcome
 *   `away`: the server is unavailable, or the answer came from elsewhere; trying again may help. `signed-out`: nobody
 *   is signed in. `refused`: the server refused the request; trying again would not help.
 *
 * @typedef {{outcome: Outcome, status: number, text: string}} Answer `text`: empty unless "done".
 */

/**
 * Send a request. Never throws.
 *
 * @param {string} url
 * @param {RequestInit} [options]
 * @returns {Promise<Answer>}
 */
export async function ask(url, options) {
  try {
    // A redirect leads to the login page, perhaps on another site. It is not followed.
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
  // `keepalive`: the request must outlive the page, because following a link marks the notification as read.
  const answer = await ask(url, { method: "POST", body, headers, keepalive: true });
  // The answer is not from the site: it may be the login page of a hotel's network.
  if (answer.outcome === "done" && !isJson(answer.text)) return { ...answer, outcome: "away" };
  return answer;
}

/**
 * Get a page of the site, as a document in which no script runs.
 *
 * @param {string} url
 * @param {string} selector Matches an element that the page must contain.
 * @returns {Promise<{outcome: Outcome, page: Document | null}>} `page`: null unless "done".
 */
export async function getPage(url, selector) {
  const { outcome, text } = await ask(url);
  if (outcome !== "done") return { outcome, page: null };
  let page;
  try {
    page = parseHtml(text);
  } catch (error) {
    // The page's Trusted Types policy forbids it, and trying again would not help.
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
