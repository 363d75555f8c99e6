"""
A month of notifications, and how long the dashboard takes to read them.

Owns the rows and the reading. Does not own the process and the database that it happens in (calling).
"""

import statistics
import time
from typing import Any

__all__ = ["fill", "measure"]

# Of a full run. A quick one has fewer.
NOTIFICATIONS = 1_000_000
NOTIFICATIONS_PER_CALL = 2_500
READS = 20
USERS, KINDS = 1_000, 20
# Always within the 30 days (UTC) that the dashboard shows, of which the last has just begun.
MONTH_SECONDS = 29 * 86_400


def measure(calls: int) -> dict[str, float]:
    """Fill the database, count its hours as a relay does, and read the dashboard of each period again and again."""
    from notifications.models import Notification
    from notifications.statistics import hours, read_dashboard

    fill(min(NOTIFICATIONS, calls * NOTIFICATIONS_PER_CALL))
    counter = hours.HourCounter()
    began_at = time.perf_counter()
    # The pauses between rounds are left out.
    hours.PAUSES.update(dict.fromkeys(hours.PAUSES, 0))
    counter.count_due(3600.0)
    figures: dict[str, float] = {"count_seconds": time.perf_counter() - began_at, "notifications": 0}
    for period in ("hour", "day", "month"):
        times: list[float] = []
        # The first one is not counted: it opens connections.
        for _ in range(1 + READS):
            begin = time.perf_counter()
            found = read_dashboard(period)
            times.append((time.perf_counter() - begin) * 1e3)
        figures[f"ms_{period}"] = statistics.median(times[1:])
        figures[f"max_ms_{period}"] = max(times[1:])
        shown = Notification.objects.filter(created_at__gte=found.rows.since).count()
        # Each figure is the number of its rows.
        figures["lost"] = figures.get("lost", 0) + abs(shown - found.rows.funnel.created)
        figures["notifications"] = max(figures["notifications"], shown)
    return figures | {"doubled": 0}


def fill(count: int) -> None:
    """Insert this many events, each with a notification and a delivery, spread over the last 29 days."""
    from django.contrib.auth import get_user_model
    from django.db import connection

    model: Any = get_user_model()
    model.objects.bulk_create(model(username=f"month-{number}", password="!") for number in range(USERS))  # noqa: S106
    first = model.objects.filter(username__startswith="month-").order_by("pk").values_list("pk", flat=True)[0]
    is_sqlite = connection.vendor == "sqlite"
    begin, step = time.time() - MONTH_SECONDS, MONTH_SECONDS / count
    moment = f"{begin} + n * {step}"
    at = f"strftime('%Y-%m-%d %H:%M:%f', {moment}, 'unixepoch')" if is_sqlite else f"to_timestamp({moment})"
    key, no = ("printf('%032x', n)", "0") if is_sqlite else ("gen_random_uuid()", "false")
    state = "CASE WHEN n % 50 = 0 THEN 'failed' WHEN n % 31 = 0 THEN 'skipped' ELSE 'sent' END"
    tables = {
        "event": {
            **{"kind": f"'kind.' || (n * 7 % {KINDS})", "title": "''", "message": "'Your order is on its way!'"},
            **{"url": "''", "collapse_key": "''", "created_at": at, "published_at": at},
        },
        "notification": {
            **{"event_id": "n", "recipient_id": f"{first} + n % {USERS}", "created_at": at, "collapse_key": "''"},
            **{"relayed_at": at, "dispatched_at": at, "seen_at": f"CASE WHEN n % 2 = 0 THEN {at} END"},
            "read_at": f"CASE WHEN n % 4 = 0 THEN {at} END",
        },
        "delivery": {
            **{"notification_id": "n", "transport": "CASE WHEN n % 3 = 0 THEN 'chat' ELSE 'email' END"},
            **{"state": state, "key": key, "attempts": "1 + n % 17 / 16", "if_unread": no, "holder": "''"},
            **{"dead_letter": "''", "outcomes": "'{}'", "answer": "'250 OK'", "created_at": at, "finished_at": at},
        },
    }
    with connection.cursor() as cursor:
        for table, columns in tables.items():
            cursor.execute(f"""
                INSERT INTO notifications_{table} (id, {", ".join(columns)})
                WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
                SELECT n, {", ".join(columns.values())} FROM numbers
            """)  # noqa: S608 - names and numbers of our own
        # A server does this by itself, some minutes later.
        cursor.execute("ANALYZE")
