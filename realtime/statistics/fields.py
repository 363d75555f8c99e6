"""
The names under which Redis and the database keep counts: "metric|label|label".

Owns this format, and reading all counters of this process in it. Does not own the metrics (metrics).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

from realtime.statistics.counting import Key, counted
from realtime.statistics.metrics import METRICS
from realtime.statistics.parts import Now, ProcessStatistics, collect

__all__ = ["add", "decode", "encode", "is_now", "read_process"]


def encode(key: Key) -> str:
    """The field of a key. Lone surrogates, which Redis clients cannot send, become "?"."""
    field = "|".join(part.replace("%", "%25").replace("|", "%7C") for part in key)
    return field if field.isascii() else field.encode(errors="replace").decode()


def decode(field: str) -> Key:
    """The key of a field."""
    return tuple(part.replace("%7C", "|").replace("%25", "%") for part in field.split("|"))


def is_now(field: str) -> bool:
    """Whether the field is a present state: of a period, its maximum is kept, and not its sum."""
    metric = METRICS.get(field.partition("|")[0])
    return metric is not None and metric.kind == "now"


def add(figures: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The counts of periods together: the sum of totals, and the maximum of present states."""
    found: dict[str, int] = {}
    for each in figures:
        for field, number in each.items():
            if field not in found:
                found[field] = number
            elif is_now(field):
                found[field] = max(found[field], number)
            else:
                found[field] += number
    return found


def read_process() -> tuple[Counter[str], dict[str, int]]:
    """All counters of this process: its totals since it started, and its present state. Takes less than 1 ms."""
    totals: Counter[str] = Counter()
    # Two keys may have one field: what a field cannot hold is replaced.
    for key, number in counted().items():
        totals[encode(key)] += number
    now: dict[str, int] = {}
    for name, kind, value in _parts(collect()):
        if kind is Now:
            now[name] = now.get(name, 0) + value
        else:
            totals[name] += value
    return totals, now


def _parts(process: ProcessStatistics) -> Iterator[tuple[str, object, int]]:
    """Each counter of the parts as (field, type, value)."""
    named = [(each.name, (), getattr(process, each.name)) for each in fields(process)]
    of_groups = [("workers", (group,), workers) for group, workers in process.workers.items()]
    for part, labels, counters in [*(each for each in named if each[0] not in ("workers", "others")), *of_groups]:
        for each in fields(counters):
            value = getattr(counters, each.name)
            if isinstance(value, Mapping):
                for label, number in value.items():
                    yield encode((f"{part}.{each.name}", *labels, str(label))), each.type, number
            else:
                yield encode((f"{part}.{each.name}", *labels)), each.type, value
    for name, totals in process.others.items():
        for what, number in totals.items():
            yield encode(("others.totals", name, str(what))), None, number
