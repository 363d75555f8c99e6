/**
 * The Trusted Types policy "signalbox", for pages with `require-trusted-types-for 'script'`.
 *
 * Owns the two places where a string becomes a script URL or HTML: the URL of the shared worker, and HTML rendered by
 * the site's server, which is parsed into a document that runs no scripts. The policy has no other use and is not
 * exported. If the page's `trusted-types` does not allow its name, plain strings are used, the browser refuses them,
 * and the caller gets the TypeError.
 */

const POLICY = "signalbox";
const WORKER_URL = new URL("./worker.js", import.meta.url).href;

let policy;

/** The policy, created when it is first needed; null if the browser has no Trusted Types or the page forbids it. */
function policyOrNone() {
  if (policy !== undefined) return policy;
  try {
    policy = globalThis.trustedTypes?.createPolicy(POLICY, {
      createHTML: (html) => html,
      createScriptURL: (url) => {
        if (url !== WORKER_URL) throw new TypeError(`${url} is not the worker of this client`);
        return url;
      },
    });
  } catch (error) {
    console.warn(`signalbox: add ${POLICY} to trusted-types in the page's Content-Security-Policy: ${error}`);
  }
  return (policy ??= null);
}

/** The URL of the shared worker, for `new SharedWorker()`. */
export const workerUrl = () => policyOrNone()?.createScriptURL(WORKER_URL) ?? WORKER_URL;

/**
 * Parse HTML that the site's own server has rendered into a document in which no script runs.
 *
 * @param {string} html
 * @returns {Document}
 * @throws {TypeError} The page's policy does not allow it.
 */
export const parseHtml = (html) =>
  new DOMParser().parseFromString(policyOrNone()?.createHTML(html) ?? html, "text/html");
