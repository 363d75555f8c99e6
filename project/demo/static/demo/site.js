/**
 * The demo shop: places orders without leaving the page, shows the status of orders live, and fills in demo users.
 *
 * All forms and pages work without this script. The bell's messages arrive as events on the document (bell.js).
 * Elements are looked up when they are needed, because htmx and Turbo replace the content of a page without loading it.
 */

import { Actions } from "../notifications/actions.js";
import { showTimes } from "../notifications/items.js";
import { getPage } from "../notifications/server.js";

const PLACED_MS = 4_000;
const PROBLEMS = {
  "signed-out": "You are signed out. Sign in again in another tab, and try again.",
  "other-user": "Somebody else has signed in. Reload the page.",
  refused: "The shop refused this order. Reload the page and try again.",
};
const AWAY = "The shop cannot be reached. Trying again…";

/** The forms that wait for the shop's answer. Each has a key, so that sending it twice places only one order. */
const ordering = new Set();
const actions = new Actions({
  onAway: (isAway) => ordering.forEach((form) => say(form, isAway ? AWAY : "")),
  renew: renewToken,
});

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("[data-place-order]");
  if (!form) return;
  event.preventDefault();
  // A second click must not place a second order.
  if (ordering.has(form)) return;
  ordering.add(form);
  say(form, actions.isAway ? AWAY : "");
  const { outcome, text } = await actions.perform(form.action, new FormData(form));
  ordering.delete(form);
  say(form, PROBLEMS[outcome] ?? "");
  if (outcome === "done") showPlaced(form, JSON.parse(text));
});

/** @param {HTMLFormElement} form @param {{next_key: string}} answer Its key makes the next click another order. */
function showPlaced(form, { next_key: key }) {
  form.elements.namedItem("key").value = key;
  const button = form.querySelector("button");
  const label = button.dataset.label ?? (button.dataset.label = button.textContent);
  name(button, "Ordered");
  setTimeout(() => name(button, label), PLACED_MS);
}

/** Change the button's text, and the same text in its accessible name, which also contains the product. */
function name(button, text) {
  button.ariaLabel = button.ariaLabel.replace(button.textContent, text);
  button.textContent = text;
}

function say(form, text) {
  form.querySelector("[data-said]").textContent = text;
}

/** Fetch a new CSRF token if the same customer is signed in: the page's token is from before the last sign-in. */
async function renewToken() {
  const { outcome, page } = await getPage(location.href, "main");
  if (!page) return { outcome, token: "" };
  const [present, fresh] = [document, page].map((root) => root.querySelector("[data-signalbox-user]")?.dataset.signalboxUser);
  if (fresh === undefined) return { outcome: "signed-out", token: "" };
  if (fresh !== present) return { outcome: "other-user", token: "" };
  return { outcome, token: page.querySelector("[data-place-order] [name=csrfmiddlewaretoken]").value };
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-fill-user]");
  if (!button) return;
  const { username, password } = button.form.elements;
  username.value = button.dataset.fillUser;
  password.value = button.dataset.fillPassword;
  button.form.querySelector("[type=submit]").focus();
});

const orders = () => document.querySelector("[data-orders]");

document.addEventListener("signalbox:message", ({ detail: { data } }) => {
  // Any program may send any kind, but only the shop's own messages contain an order.
  if (orders() && data?.kind?.startsWith("order.") && data.data?.order) showStatus(data);
  if (orders() && data?.kind === "receipt.ready") reloadOrders();
});
document.addEventListener("signalbox:resync", () => orders() && reloadOrders());

/** @param {{id: number, data: {order: number, status: string, label: string}}} envelope */
function showStatus(envelope) {
  const { order: id, status, label } = envelope.data;
  const order = orders().querySelector(`[data-order="${Number(id)}"]`);
  // The order was placed in another tab.
  if (!order) return reloadOrders();
  // A message may arrive twice, even after a newer one.
  if (envelope.id <= Number(order.dataset.notification ?? 0)) return;
  Object.assign(order.dataset, { notification: envelope.id, status });
  order.querySelector("[data-order-status]").textContent = label;
  for (const stop of order.querySelectorAll("[data-stop]")) {
    if (stop.dataset.stop === status) stop.ariaCurrent = "step";
    else stop.removeAttribute("aria-current");
  }
}

async function reloadOrders() {
  const { page } = await getPage(location.href, "[data-orders]");
  const [fresh, present] = [page?.querySelector("[data-orders]"), orders()];
  if (!fresh || !present || states(fresh) === states(present)) return;
  present.replaceChildren(...fresh.childNodes);
  showTimes(present);
}

const states = (list) =>
  [...list.querySelectorAll("[data-order]")].map(stateOf).join();
const stateOf = (order) =>
  `${order.dataset.order} ${order.dataset.status} ${order.querySelector("[data-receipt]") ? "with its receipt" : ""}`;
