/** What the bell's scripts say, and in which language. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ENGLISH, languageOf, numberText, textsOf, unreadText } from "../../notifications/static/notifications/language.js";

const inside = (lang) => ({ closest: () => (lang === null ? null : { getAttribute: () => lang }) });

test("the server's texts replace the English ones, which stay where there are none", () => {
  assert.deepEqual(textsOf({ dataset: {} }), ENGLISH);
  const texts = textsOf({ dataset: { signalboxTexts: JSON.stringify({ open: "Verbunden" }) } });
  assert.deepEqual(texts, { ...ENGLISH, open: "Verbunden" });
});

test("the language is that of the page, or the browser's where it names none that there is", () => {
  assert.equal(languageOf(inside("de")), "de");
  assert.equal(languageOf(inside("pt-br")), "pt-BR");
  for (const lang of ["", "en_US", "1", null]) assert.equal(languageOf(inside(lang)), undefined, String(lang));
});

test("numbers are written as the language writes them", () => {
  assert.equal(numberText(1234, "en"), "1,234");
  assert.equal(numberText(1234, "de"), "1.234");
});

test("a count has the text of its plural category", () => {
  const arabic = { 0: "zero", 1: "one", 2: "two", 3: "few %(count)s", 11: "many %(count)s", 100: "other %(count)s" };
  const said = (count) => unreadText(arabic, count, "ar").split(" ")[0];
  assert.deepEqual([0, 1, 2, 3, 10, 11, 99, 100, 102, 103, 111].map(said), [
    "zero", "one", "two", "few", "few", "many", "many", "other", "other", "few", "many",
  ]);
  const russian = { 0: "many", 1: "one", 2: "few", 3: "few", 6: "many", 7: "many", 11: "many", 100: "many" };
  assert.deepEqual([0, 1, 2, 5, 11, 21, 22, 25].map((count) => unreadText(russian, count, "ru")), [
    "many", "one", "few", "many", "many", "one", "few", "many",
  ]);
  assert.equal(unreadText(ENGLISH.unread, 1, "en"), "Notifications, 1 unread");
  assert.equal(unreadText(ENGLISH.unread, 1234, "en"), "Notifications, 1,234 unread");
  // A project's own texts, and a language with a category that they lack.
  assert.equal(unreadText({ 100: "%(count)s da" }, 1, "de"), "1 da");
});
