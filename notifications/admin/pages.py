"""Pages of the admin that are no lists of rows: what the menu and the lists beside them need to know of each."""

from dataclasses import dataclass

__all__ = ["AdminPage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminPage:
    """One page, for those who may open it."""

    name: str
    url: str
    # A Material symbol, for looks that have them.
    icon: str
