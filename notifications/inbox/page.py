"""
The page around the inbox: the project's base template, if it has one.

Owns which template that is, whether it has a block for the inbox, and the nonce for the page's Content Security Policy.
Does not own what the inbox shows (queries, views).
"""

from contextlib import suppress
from typing import Any

from django.http import HttpRequest
from django.template import Template, TemplateDoesNotExist, engines
from django.template.backends.django import DjangoTemplates
from django.template.loader_tags import BlockNode, ExtendsNode

from notifications.label import LABEL

try:
    from django.middleware import csp
except ImportError:
    # Django before 6.0 has no policy of its own.
    csp = None  # type: ignore[assignment]

__all__ = ["find_base", "has_room", "nonce_of"]

# The first of these that exists. The last is ours.
_BASES = (f"{LABEL}/base.html", "base.html", "notifications/page.html")
# The block that the inbox fills. It also fills the block `title`, which is optional.
_BLOCK = "content"


def find_base() -> Any:
    """
    The template that the inbox extends: the first of _BASES that a DjangoTemplates engine has.

    Our template cannot extend templates of other engines.

    Raises:
        TemplateDoesNotExist: None of them exists, not even ours.
        TemplateSyntaxError: The template is broken.
    """
    usable = [engine for engine in engines.all() if isinstance(engine, DjangoTemplates)]
    for name in _BASES:
        for engine in usable:
            with suppress(TemplateDoesNotExist):
                return engine.get_template(name)
    raise TemplateDoesNotExist(", ".join(_BASES))


def has_room(base: Any) -> bool:
    """
    Whether this template, or one that it extends, has the block that the inbox fills; True if that is unknown.

    Raises:
        TemplateDoesNotExist, TemplateSyntaxError: A template that it extends does not exist, or is broken.
    """
    template = getattr(base, "template", None)
    seen: set[str] = set()
    # Templates of other kinds cannot be inspected.
    while isinstance(template, Template):
        blocks: list[Any] = template.nodelist.get_nodes_by_type(BlockNode)
        if any(block.name == _BLOCK for block in blocks):
            return True
        extends: list[Any] = template.nodelist.get_nodes_by_type(ExtendsNode)
        if not extends:
            return False
        parent = extends[0].parent_name
        # A variable may stand for any template. A template that extends its own name means another one of that name.
        if not isinstance(parent.var, str) or parent.filters or parent.var in seen:
            return True
        seen.add(parent.var)
        template = template.engine.get_template(parent.var)
    return True


def nonce_of(request: HttpRequest) -> str:
    """The nonce of the request's Content Security Policy, from Django or django-csp; "" if there is none."""
    nonce = csp.get_nonce(request) if csp else None
    if nonce is None:
        nonce = getattr(request, "csp_nonce", None)
    # Django's nonce is falsy until it is converted to a string.
    return "" if nonce is None else str(nonce)
