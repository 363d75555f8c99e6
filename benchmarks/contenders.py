"""
What may stand in a row of a table, whatever is measured.

Owns the few words that the command line and the tables need of it. Does not own how it is measured (servers, workers,
deliverers, callers).
"""

from typing import Protocol

__all__ = ["Contender"]


class Contender(Protocol):
    """
    Attributes:
        name: For --server, and in the results; ours begin with "signalbox".
        title: For people.
        is_ours: One of the project's own ways.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def is_ours(self) -> bool: ...

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
