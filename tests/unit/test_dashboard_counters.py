"""The tables of what processes have counted."""

from notifications.admin.dashboard.counters import LABELS_SHOWN, counter_tables
from notifications.admin.dashboard.tables import Table
from notifications.statistics.figures import Counters


def tables(totals: dict[str, int], by_label: dict[str, dict[tuple[str, ...], int]] | None = None) -> dict[str, Table]:
    counters = Counters(totals=totals, by_label=by_label or {}, points=(), latencies=(), processes=())
    return {table.title: table for table in counter_tables(counters)}


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_each_counter_has_its_unit_and_meaning() -> None:
    """Grouped by part. The highest present state of a period is marked as such."""
    found = tables({"hub.slow_count": 1234, "clients.open_count": 7})
    assert set(found) == {"clients", "hub"}
    (slow,) = texts(found["hub"])
    assert slow[:3] == ["slow_count", "1,234", "sockets"]
    assert slow[3].startswith("Sockets closed because they read too slowly")
    assert texts(found["clients"])[0][:3] == ["open_count", "7", "connections, at most"]


def test_labels_follow_their_counter_the_largest_first() -> None:
    """At most LABELS_SHOWN of them."""
    by_label = {("order", f"transport{number}"): number for number in range(1, LABELS_SHOWN + 6)}
    found = tables({"deliveries.sent": sum(by_label.values())}, {"deliveries.sent": by_label})
    total, first, *others = texts(found["deliveries"])
    assert total[:2] == ["sent", "325"]
    assert first[:2] == ["sent: order, transport25", "25"]
    assert len(others) == LABELS_SHOWN - 1


def test_counters_of_other_parts_have_a_meaning_if_they_are_ours() -> None:
    """Also those whose name has a part that varies. Parts of the project have none."""
    labels = {
        ("ingress", "refused:not_json"): 3,
        ("log handler logs", "spilled"): 2,
        ("shop", "carts"): 1,
    }
    rows = texts(tables({"others.totals": 6}, {"others.totals": labels})["others"])
    assert [row[0] for row in rows] == ["ingress: refused:not_json", "log handler logs: spilled", "shop: carts"]
    assert [bool(row[3]) for row in rows] == [True, True, False]


def test_a_counter_of_a_newer_release_is_shown_by_its_name() -> None:
    """While a site is upgraded, processes of two releases count."""
    assert texts(tables({"future.thing": 5})["future"]) == [["thing", "5", "", ""]]
