"""
Running one row: a site, its clients, the load and the fault, until everything has settled.

Owns the order of these. Does not own the verdict's parts (equation).
"""

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import Sequence

from tests.faults.clients import Client
from tests.faults.equation import Outcome, count, ended_count, is_settled
from tests.faults.load import Load
from tests.faults.rows import ROWS, Row, Stage
from tests.faults.site import Site

__all__ = ["CALLS", "run"]

CALLS = 200
# The longest time in which nothing ends anywhere while something is left to do; and all in all.
STANDSTILL_SECONDS = 30.0
SETTLE_SECONDS = 150.0
LOG_CHARACTERS = 3000


def run(name: str, seed: int, *, calls: int = CALLS, log: bool = False) -> Outcome:
    """
    Run one row with one seed, in processes of its own.

    Args:
        log: With an outcome that is not ok, show what the processes wrote last.
    """
    row = ROWS[name]
    started = time.monotonic()
    outcome = Outcome(row=name, seed=seed)
    try:
        with Site(row.workers, timeout_seconds=row.timeout_seconds, **row.settings) as site:
            try:
                outcome = asyncio.run(_run(site, row, outcome, calls))
            except Exception as error:
                outcome = dataclasses.replace(outcome, error=f"{type(error).__name__}: {error}")
            if outcome.error and log:
                ends = (f"--- {part}\n{text[-LOG_CHARACTERS:]}" for part, text in site.logs().items())
                outcome = dataclasses.replace(outcome, error="\n".join([outcome.error, *ends]))
    except Exception as error:
        # Whatever it was: the other rows are run.
        outcome = dataclasses.replace(outcome, error=f"{type(error).__name__}: {error}")
    return dataclasses.replace(outcome, seconds=round(time.monotonic() - started, 1))


async def _run(site: Site, row: Row, outcome: Outcome, calls: int) -> Outcome:
    load = Load(site, outcome.seed, calls=calls, deaths=row.deaths, burst=row.burst)
    stage = Stage(site, load, random.Random(f"{outcome.row}:{outcome.seed}"))  # noqa: S311 - a schedule, no secret
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(site.address, user, session))
            for user, session in site.sessions.items()
        ]
        await asyncio.gather(asyncio.to_thread(load.run), asyncio.to_thread(row.fault, stage))
        ended = time.monotonic()
        is_done = await _settle(site, load, clients)
        settle_seconds = round(time.monotonic() - ended, 1)
        figures = count(site, load, clients)
    outcome = dataclasses.replace(outcome, **figures, settle_seconds=settle_seconds)
    allowed = {"repeated": bool(row.may_repeat), "failed": row.may_fail, "out_of_order": row.may_reorder}
    wrong = [
        f"{what.replace('_', ' ')} {figures[what]}"
        for what in ("lost", "doubled", "missed", "expired", "repeated", "failed", "out_of_order")
        if figures[what] and not allowed.get(what)
    ]
    if not is_done:
        wrong.append(f"not done {settle_seconds} s after the end of the load and the fault")
    return dataclasses.replace(outcome, error=", ".join(wrong))


async def _settle(site: Site, load: Load, clients: Sequence[Client]) -> bool:
    """Wait until everything was done, or until nothing more comes; returns whether it was done."""
    began = changed = time.monotonic()
    known = 0
    while not is_settled(site, load, clients):
        for client in clients:
            client.check()
        now = time.monotonic()
        if (ended := ended_count(site, clients)) != known:
            known, changed = ended, now
        if now > min(changed + STANDSTILL_SECONDS, began + SETTLE_SECONDS):
            return False
        await asyncio.sleep(0.1)
    return True
