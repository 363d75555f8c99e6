/**
 * The single connection of the page. It stays open while bells are replaced: htmx and Turbo replace the page's content,
 * and the bell in it, without loading a page.
 *
 * Owns opening and closing the connection. Does not own its messages (bell.js).
 */

import { connect } from "../realtime/client.js";

/** After the last bell has left the page, the connection stays open for this long, so that the next bell can use it. */
const RELEASE_MS = 1_000;

/** @type {import("../realtime/client.js").Connection | null} */
export let connection = null;
let key = "";
let holders = 0;
let timer = null;

/**
 * A bell needs the connection. Call `release()` once for each call.
 *
 * @param {{user: string, url: string}} of
 * @returns {import("../realtime/client.js").Connection} The existing one if it has the same user and URL.
 */
export function hold({ user, url }) {
  clearTimeout(timer);
  holders += 1;
  if (connection === null || key !== `${user} ${url}`) {
    connection?.close();
    connection = connect({ user, url });
    key = `${user} ${url}`;
  }
  return connection;
}

/** A bell has left the page: close the connection soon, unless another bell needs it. */
export function release() {
  holders -= 1;
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (holders > 0) return;
    connection?.close();
    connection = null;
  }, RELEASE_MS);
}
