"""The translations: complete, compiled, and in step with the code and the scripts."""

import gettext
import re
from pathlib import Path

import pytest
from django.utils import translation

from notifications.inbox.bell_texts import PLURAL_SAMPLES, bell_texts, unread_label
from tests.support.catalogs import APPS, LANGUAGES, locale_of, messages_in_code, read_po

SCRIPT = Path(__file__).parents[2] / "notifications" / "static" / "notifications" / "language.js"
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]")


def test_there_are_languages_and_texts() -> None:
    assert {"ar", "de"} <= set(LANGUAGES)
    texts = {message[0] for message in messages_in_code("notifications")}
    # Of a Python file, of templates, and with a plural.
    assert {"Connecting…", "Mark as read", "Nothing older.", "Email", "%(label)s: %(count)d notification"} <= texts
    texts = {message[0] for message in messages_in_code("realtime")}
    assert {"task", "Run again", "%(count)d task will run again.", "Worker of each attempt"} <= texts


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("language", LANGUAGES)
class TestCatalog:
    def test_it_has_every_text_of_the_code_and_no_other(self, app: str, language: str) -> None:
        """Else run makemessages in the app."""
        assert set(read_po(app, language)) - {("",)} == messages_in_code(app)

    def test_every_text_is_translated(self, app: str, language: str) -> None:
        """In each plural form, with the same placeholders."""
        catalog = read_po(app, language)
        found = re.search(r"nplurals=(\d)", catalog.pop(("",))[0])
        assert found
        for message, translations in catalog.items():
            assert len(translations) == (1 if len(message) == 1 else int(found[1])), message
            for text in translations:
                assert text.strip(), message
                assert sorted(PLACEHOLDER.findall(text)) == sorted(PLACEHOLDER.findall(message[0])), text

    def test_the_compiled_file_says_the_same(self, app: str, language: str) -> None:
        """Else run compilemessages in the app."""
        with (locale_of(app, language) / "django.mo").open("rb") as file:
            compiled = gettext.GNUTranslations(file)
        catalog = read_po(app, language)
        expected: dict[object, str] = {}
        for message, translations in catalog.items():
            if len(message) == 1:
                expected[message[0]] = translations[0]
            else:
                expected.update({(message[0], form): text for form, text in enumerate(translations)})
        assert vars(compiled)["_catalog"] == expected

    def test_each_plural_form_has_a_number_for_the_scripts(self, app: str, language: str) -> None:
        with (locale_of(app, language) / "django.mo").open("rb") as file:
            plural = vars(gettext.GNUTranslations(file))["plural"]
        assert {plural(count) for count in range(1000)} == {plural(count) for count in PLURAL_SAMPLES}


def test_the_scripts_have_the_same_texts_in_english() -> None:
    """For a project whose own bell.html brings none."""
    script = SCRIPT.read_text()
    own = re.search(r"export const ENGLISH = \{(.*?)^\};", script, re.DOTALL | re.MULTILINE)
    unread = re.search(r'const ENGLISH_UNREAD = "(.*)"', script)
    assert own and unread
    with translation.override("en"):
        texts = bell_texts()
    plural = texts.pop("unread")
    assert isinstance(plural, dict)
    assert set(plural.values()) == {unread[1]}
    assert dict(re.findall(r'^  "?([\w-]+)"?: "(.*)",$', own[1], re.MULTILINE)) == texts


@pytest.mark.parametrize(
    ("language", "count", "label"),
    [
        ("en", 1, "Notifications, 1 unread"),
        ("en", 1234, "Notifications, 1,234 unread"),
        ("de", 1234, "Benachrichtigungen, 1.234 ungelesen"),
        ("ar", 0, "الإشعارات، لا شيء غير مقروء (0)"),
        ("ar", 2, "الإشعارات، إشعاران غير مقروءين (2)"),
        ("ar", 5, "الإشعارات، 5 إشعارات غير مقروءة"),
        ("ar", 12, "الإشعارات، 12 إشعارًا غير مقروء"),
        ("ar", 100, "الإشعارات، 100 إشعار غير مقروء"),
    ],
)
def test_the_label_has_the_plural_form_of_its_number(language: str, count: int, label: str) -> None:
    with translation.override(language):
        assert unread_label(count) == label
