/**
 * What a page with `require-trusted-types-for 'script'` asks for: one Trusted Types policy, named "signalbox".
 *
 * Owns the two places where a string becomes a script's address or markup: the shared worker's own file, and what the
 * site's server has rendered, which becomes a document that runs nothing. Nothing else is given to the policy, and
 * nobody else gets hold of it. Where the page's `trusted-types` does not allow the name, the browser refuses the plain
 * strings, and whoever asked is told.
 */

const POLICY = "signalbox";
const WORKER_URL = new URL("./worker.js", import.meta.url).href;

let policy;

/** Made when it is first needed: a page that needs none has none. */
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

/** The address of the shared worker, for `new SharedWorker()`. */
export const workerUrl = () => policyOrNone()?.createScriptURL(WORKER_URL) ?? WORKER_URL;

/**
 * What the site's own server has rendered, as a document in which no script runs.
 *
 * @param {string} html
 * @returns {Document}
 * @throws {TypeError} The page's policy does not allow it.
 */
export const parseHtml = (html) =>
  new DOMParser().parseFromString(policyOrNone()?.createHTML(html) ?? html, "text/html");
