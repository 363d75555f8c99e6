"""The counters of the live topics of one event loop."""

__all__ = ["Counters"]


class Counters:
    """One for all families; see `ViewStatistics`."""

    __slots__ = (
        "batch_count",
        "change_count",
        "delivery_count",
        "failed_count",
        "item_count",
        "loaded_count",
        "reread_count",
        "skipped_count",
        "thinned_count",
        "tick_count",
        "view_count",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.view_count = self.item_count = self.tick_count = self.change_count = self.batch_count = 0
        self.delivery_count = self.written_bytes = self.skipped_count = self.failed_count = 0
        self.loaded_count = self.reread_count = self.thinned_count = 0

    def count_reread(self) -> None:
        """A snapshot, or the registrations of a family, is read again."""
        self.reread_count += 1
