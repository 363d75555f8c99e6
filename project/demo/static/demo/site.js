/**
 * The demo shop: orders without leaving the page, an order's way as it happens, and filled-in demo customers.
 *
 * Every form and page works without it. What the bell hears comes as events on the document (bell.js).
 */

import { showTimes } from "../notifications/items.js";

const PLACED_MS = 4_000;

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("[data-place-order]");
  if (!form) return;
  event.preventDefault();
  const button = form.querySelector("button");
  // One click, one order.
  button.disabled = true;
  const isPlaced = await placeOrder(form);
  button.disabled = false;
  // As without JavaScript: the browser shows whatever stands in the way.
  if (!isPlaced) return form.submit();
  const label = button.textContent;
  button.textContent = "Ordered";
  setTimeout(() => (button.textContent = label), PLACED_MS);
});

async function placeOrder(form) {
  const headers = { Accept: "application/json" };
  try {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form), headers });
    return response.status === 201;
  } catch {
    return false;
  }
}

for (const button of document.querySelectorAll("[data-fill-user]")) {
  button.addEventListener("click", () => {
    const { username, password } = button.form.elements;
    username.value = button.dataset.fillUser;
    password.value = button.dataset.fillPassword;
    button.form.querySelector("[type=submit]").focus();
  });
}

const orders = document.querySelector("[data-orders]");
if (orders) {
  document.addEventListener("signalbox:message", ({ detail: { data } }) => {
    // Any program may send any kind: only the shop's own say which order.
    if (data?.kind?.startsWith("order.") && data.data?.order) showStatus(data);
  });
  document.addEventListener("signalbox:resync", reloadOrders);
}

/** @param {{id: number, data: {order: number, status: string, label: string}}} envelope */
function showStatus(envelope) {
  const { order: id, status, label } = envelope.data;
  const order = orders.querySelector(`[data-order="${Number(id)}"]`);
  // Placed in another tab.
  if (!order) return reloadOrders();
  // A message may come twice, and then perhaps after a newer one.
  if (envelope.id <= Number(order.dataset.notification ?? 0)) return;
  Object.assign(order.dataset, { notification: envelope.id, status });
  order.querySelector("[data-order-status]").textContent = label;
  for (const stop of order.querySelectorAll("[data-stop]")) {
    if (stop.dataset.stop === status) stop.ariaCurrent = "step";
    else stop.removeAttribute("aria-current");
  }
}

async function reloadOrders() {
  const response = await fetch(location.href, { cache: "no-store" });
  if (!response.ok || response.redirected) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.querySelector("[data-orders]");
  if (statuses(fresh) === statuses(orders)) return;
  orders.replaceChildren(...fresh.childNodes);
  showTimes(orders);
}

const statuses = (list) =>
  [...list.querySelectorAll("[data-order]")].map(({ dataset }) => `${dataset.order} ${dataset.status}`).join();
