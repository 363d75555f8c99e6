"""Counting by label, in threads and after a fork, and histograms."""

import math
import os
import random
import threading
from collections import Counter

import pytest

from realtime.statistics import METRICS, count, counting, fields, observe
from realtime.statistics.counting import KEYS_LIMIT, OTHER, counted
from realtime.statistics.histograms import LAST_BUCKET, bucket_of, percentile


def growth(before: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    return {key: number - before[key] for key, number in counted().items() if number != before[key]}


def in_thread(call: object, *arguments: object) -> None:
    thread = threading.Thread(target=call, args=arguments)  # type: ignore[arg-type]
    thread.start()
    thread.join()


def test_counts_of_threads_are_added_and_stay_when_the_threads_have_ended() -> None:
    """Eight threads count at the same time while another one reads, and no addition is lost."""
    before = counted()
    start = threading.Barrier(9)

    def add() -> None:
        start.wait()
        for _ in range(5_000):
            count("notifications.created", 1, "order.shipped")
            count("notifications.created", 2, "news")

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        now = growth(before).get(("notifications.created", "news"), 0)
        assert now >= seen
        seen = now
    for thread in threads:
        thread.join()
    assert growth(before) == {
        ("notifications.created", "order.shipped"): 40_000,
        ("notifications.created", "news"): 80_000,
    }


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has counted nothing yet."""
    for name, empty in (("_threads", []), ("_ended", Counter()), ("_keys", set()), ("_local", threading.local())):
        monkeypatch.setattr(counting, name, empty)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("label", ["kind-{}", "{}"])
def test_a_process_has_a_limited_number_of_labels(label: str) -> None:
    """Whichever of its threads count them. What exceeds it is counted without its labels."""

    def add(first: int) -> None:
        for number in range(first, first + KEYS_LIMIT // 10):
            count("deliveries.sent", 1, label.format(number), "email")
            observe("deliveries.send_seconds", 0.5, label.format(number))

    for turn in range(10):
        in_thread(add, turn * KEYS_LIMIT // 10)
    found = counted()
    assert len(found) == KEYS_LIMIT + 2
    assert found["deliveries.sent", OTHER, OTHER] == KEYS_LIMIT // 2
    assert found["deliveries.send_seconds", OTHER, str(bucket_of(0.5))] == KEYS_LIMIT // 2
    assert found.total() == 2 * KEYS_LIMIT


@pytest.mark.usefixtures("fresh")
def test_threads_that_have_ended_take_no_memory_even_if_nobody_reads() -> None:
    """With STATISTICS off, nothing reads the counters, and a server may have a thread for each request."""
    for _ in range(50):
        in_thread(count, "notifications.created", 1, "news")
    assert len(counting._threads) <= 2
    assert counted() == {("notifications.created", "news"): 50}


def test_a_long_label_is_cut() -> None:
    """So that no key is large."""
    before = counted()
    in_thread(lambda: [count("notifications.created", 1, "x" * 1000) for _ in range(3)])
    assert growth(before) == {("notifications.created", "x" * 64): 3}


def test_a_forked_process_begins_at_zero() -> None:
    """The parent's counts are pushed by the parent."""
    count("notifications.created", 7, "fork")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        count("notifications.created", 1, "fork")
        os.write(writer, str(dict(counted())).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert answer.read() == str({("notifications.created", "fork"): 1})
    os.waitpid(child, 0)


def test_percentiles_are_at_most_a_tenth_off() -> None:
    """Of durations from 20 µs to an hour."""
    chance = random.Random(7)  # noqa: S311 - keeps no secret
    durations = sorted(math.exp(chance.uniform(math.log(2e-5), math.log(3600))) for _ in range(10_000))
    buckets = Counter(map(bucket_of, durations))
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = durations[math.ceil(share * len(durations)) - 1]
        found = percentile(buckets, share)
        assert found is not None
        assert abs(found / exact - 1) < 0.1, (share, found, exact)


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(-5, 0), (0, 0), (1e-5, 0), (1.1e-5, 1), (90_000, 126), (1e12, LAST_BUCKET)]
)
def test_durations_beyond_the_ends_are_counted_too(seconds: float, bucket: int) -> None:
    """A negative one comes from clocks that differ."""
    assert bucket_of(seconds) == bucket


def test_nothing_counted_has_no_percentile() -> None:
    """Not 0, which would be a fast one."""
    assert percentile({}, 0.5) is None


def test_observed_durations_are_counted_by_bucket() -> None:
    """The bucket is the last label."""
    before = counted()
    observe("deliveries.send_seconds", 0.5, "email")
    assert growth(before) == {("deliveries.send_seconds", "email", str(bucket_of(0.5))): 1}


@pytest.mark.parametrize("key", [("a",), ("a", ""), ("a", "x|y", "50%", "%7C"), ("a", "(other)", "é")])
def test_a_field_has_all_labels_whatever_they_contain(key: tuple[str, ...]) -> None:
    """Labels of other parts are any text."""
    assert fields.decode(fields.encode(key)) == key


def test_a_field_can_always_be_sent() -> None:
    """A part of the project may count by a text with half a character. It must not hold up all other counts."""
    assert fields.encode(("others.totals", "mine", "a\ud800b")).encode() == b"others.totals|mine|a?b"


def test_keys_with_the_same_field_are_added() -> None:
    """None of them hides another one, so that the total of the field only grows."""
    field = fields.encode(("notifications.created", "half ?"))
    before = fields.read_process()[0][field]
    count("notifications.created", 5, "half \ud800")
    count("notifications.created", 7, "half ?")
    assert fields.read_process()[0][field] == before + 12


def test_periods_are_added_and_of_present_states_the_largest_is_kept() -> None:
    """Ten connections in one minute and twelve in the next were never twenty-two."""
    found = fields.add([{"clients.open_count": 10, "x": 1}, {"clients.open_count": 12, "x": 2}, {"y": 5}])
    assert found == {"clients.open_count": 12, "x": 3, "y": 5}


def test_each_metric_says_what_it_means_in_one_sentence() -> None:
    """With a unit, except for counters of other parts."""
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.meaning[0].isupper()
        assert metric.meaning[-1] not in ".:"
        assert metric.unit or name == "others.totals"
