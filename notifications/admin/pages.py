"""Pages of the admin other than lists of rows: what menus and lists need for a link. Owns no page."""

from dataclasses import dataclass

__all__ = ["AdminPage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminPage:
    """One page that the user may open."""

    name: str
    url: str
    # The name of a Material symbol, for menus with icons.
    icon: str
