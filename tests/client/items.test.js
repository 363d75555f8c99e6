/** What a notification's item says of times and links. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { isEnvelope, isSafeHref, takeOut, timeText, withSafeUrl } from "../../notifications/static/notifications/items.js";

const NOW = new Date("2026-11-21T12:00:00Z");
const secondsAgo = (seconds) => timeText(new Date(NOW - seconds * 1000), NOW, "en");

const LINKS = JSON.parse(readFileSync(new URL("../support/links.json", import.meta.url), "utf8"));

test("only a path or a web address is a link", () => {
  for (const url of LINKS.links) assert.ok(isSafeHref(url), JSON.stringify(url));
  for (const url of [...LINKS.others, null, undefined, 7, {}]) assert.ok(!isSafeHref(url), JSON.stringify(url));
});

test("a publication whose url is no link has none for the page's scripts", () => {
  const received = { topic: "user.4", offset: 7, data: { id: 1, message: "look", url: "javascript:alert(1)" } };
  assert.deepEqual(withSafeUrl(received), { ...received, data: { id: 1, message: "look", url: "" } });
  assert.equal(received.data.url, "javascript:alert(1)");
  for (const data of [{ id: 1, url: "/orders/7" }, { id: 1 }, null, 7]) {
    const other = { topic: "user.4", data };
    assert.equal(withSafeUrl(other), other);
  }
});

test("only what has an id and texts is a notification", () => {
  const told = { id: 7, event_id: 3, kind: "info", title: "", message: "Hello", url: "", created_at: "2026-11-21T12:00:00Z" };
  assert.ok(isEnvelope(told));
  assert.ok(isEnvelope({ ...told, data: null, replaces: 6, more: 1 }));
  for (const data of [null, undefined, 7, "Hello", [], {}, { a: 1 }, { id: 7 }, { message: "Hello" }]) assert.ok(!isEnvelope(data));
  for (const id of [0, -1, "7", 1.5, null, 2 ** 53]) assert.ok(!isEnvelope({ ...told, id }), String(id));
  for (const name of ["kind", "title", "message", "url", "created_at"]) {
    assert.ok(!isEnvelope({ ...told, [name]: undefined }), name);
    assert.ok(!isEnvelope({ ...told, [name]: { toString: 1 } }), name);
  }
  assert.ok(!isEnvelope({ ...told, message: "" }));
});

test("a time within a day is said from now, an older one by its date", () => {
  assert.equal(secondsAgo(0), "now");
  assert.equal(secondsAgo(59), "now");
  assert.equal(secondsAgo(60), "1 minute ago");
  assert.equal(secondsAgo(59 * 60 + 59), "59 minutes ago");
  assert.equal(secondsAgo(3600), "1 hour ago");
  assert.equal(secondsAgo(86_399), "23 hours ago");
  assert.match(secondsAgo(86_400 * 3), /2026/);
});

test("a time ahead of this computer's clock is now", () => {
  assert.equal(secondsAgo(-90), "now");
});

test("what a newer notification replaces leaves every list, and how it was shown is told", () => {
  const shown = [7, 8, 7].map((id) => ({ dataset: { notificationId: String(id), signalboxItemState: "unseen" } }));
  const left = new Set(shown);
  for (const item of shown) item.remove = () => left.delete(item);
  const root = {
    querySelectorAll: (selector) => shown.filter((item) => selector.includes(`"${item.dataset.notificationId}"`)),
  };
  assert.equal(takeOut(root, 7), "unseen");
  assert.deepEqual([...left], [shown[1]]);
  assert.equal(takeOut(root, 9), null);
});
