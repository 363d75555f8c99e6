/**
 * The page's one connection, which stays while bells come and go: htmx and Turbo replace the page's content, and with it
 * the bell, without loading a page.
 */

import { connect } from "../realtime/client.js";

/** Whoever replaces a bell has so long to put the next one in. */
const RELEASE_MS = 1_000;

/** @type {import("../realtime/client.js").Connection | null} */
export let connection = null;
let key = "";
let holders = 0;
let timer = null;

/**
 * @param {{user: string, url: string}} of
 * @returns {import("../realtime/client.js").Connection} The same as before if it is for the same.
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

/** A bell has left the page. Once for each `hold()`. */
export function release() {
  holders -= 1;
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (holders > 0) return;
    connection?.close();
    connection = null;
  }, RELEASE_MS);
}
