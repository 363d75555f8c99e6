"""
What was counted: notifications and deliveries by the hour they were created in, and the counters of processes.

Owns the tables. Does not own counting (statistics.hours, statistics.rollup) nor the formats of the figures, which are
named at their columns.
"""

from typing import ClassVar

from django.db import models

__all__ = ["CountedHour", "CounterPeriod"]


class CountedHour(models.Model):
    """
    One hour (UTC): the notifications and deliveries created in it, by their states when they were last counted.

    Hours are counted again and again, because states change later. So the dashboard need not read all rows.
    """

    start = models.DateTimeField(unique=True)
    counted_at = models.DateTimeField()
    # `notifications.statistics.tally` owns the format.
    figures = models.JSONField()

    class Meta:
        ordering: ClassVar = ["-start"]
        # Only the dashboard shows it.
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M}"


class CounterPeriod(models.Model):
    """
    What all processes counted in one hour or day (UTC), copied from Redis so that it outlives Redis.

    If Redis loses its data in the middle of an hour, the hour gets a second row with a new `epoch`. The rows of one
    hour are added up.
    """

    class Length(models.TextChoices):
        HOUR = "hour", "hour"
        DAY = "day", "day"

    length = models.CharField(max_length=4, choices=Length.choices)
    start = models.DateTimeField()
    # Identifies the hash in Redis that it is a copy of; "" for a day.
    epoch = models.CharField(max_length=16, blank=True)
    # Field → count. `realtime.statistics.fields` owns the format of a field.
    figures = models.JSONField()

    class Meta:
        ordering: ClassVar = ["-start"]
        default_permissions = ()
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["length", "start", "epoch"], name="one_counter_period"),
        ]

    def __str__(self) -> str:
        return f"{self.length} from {self.start:%Y-%m-%d %H:%M}"
