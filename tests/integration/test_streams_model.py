"""Whatever workers do, in any order, and whatever is deleted meanwhile, no entry is stuck for ever."""

import itertools

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from realtime.streams import group
from tests.support.redis_server import RedisServer
from tests.support.stream_model import Model, ModelWorker, scripts_with_a_clock

pytestmark = pytest.mark.database_independent

EXAMPLES, STEPS = 120, 40
WORKERS_LIMIT = 3
KEYS = st.sampled_from(["a", "b"])
WHO = st.integers(0, WORKERS_LIMIT - 1)
WHICH = st.integers(0, 5)
DELAYS = st.sampled_from([0.0, 0.0, 5.0, 600.0])
JUMPS = st.sampled_from([1.0, 60.0, 86_400.0, -60.0, -86_400.0])
# The group itself more often than the others.
DELETED = [
    "group",
    "group",
    "group",
    "other group",
    "stream",
    "owners",
    "parked",
    "due",
    "backlog:a",
    "backlog:b",
    "entry",
    "trim",
]


class Schedule(RuleBasedStateMachine):
    """Any interleaving of the workers' steps and of faults in workers and Redis."""

    url: str
    prefix: str
    numbers = itertools.count()
    # How many schedules have ended as they should.
    settled_count = 0

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(self.url, f"{self.prefix}{next(self.numbers)}:")

    def teardown(self) -> None:
        """At the end of every schedule there are no more faults, and every entry is finished."""
        try:
            self.model.settle()
            type(self).settled_count += 1
        finally:
            self.model.close()

    def worker(self, who: int) -> ModelWorker:
        """There is always one."""
        return self.model.workers[who % len(self.model.workers)]

    # What workers do -------------------------------------------------------------------------------------------------

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4))
    def append(self, keys: list[str]) -> None:
        """A program puts entries on the stream."""
        for key in keys:
            self.model.append(key)

    @rule(who=WHO, count=st.integers(1, 4))
    def take(self, who: int, count: int) -> None:
        """A worker reads."""
        self.worker(who).take(count)

    @rule(which=WHICH, end=st.sampled_from(["hangs", "succeeds", "fails", "fails", "fails for good"]), delay=DELAYS)
    def handle(self, which: int, end: str, delay: float) -> None:
        """A worker calls its handler with an entry that it has."""
        held = [(worker, key) for worker in self.model.workers for key in worker.held_keys]
        if held:
            worker, key = held[which % len(held)]
            worker.begin(key)
            if end == "succeeds":
                worker.succeed(key)
            elif end == "fails":
                worker.fail(key, delay)
            elif end == "fails for good":
                worker.give_up(key)

    @rule(who=WHO, is_heard=st.booleans())
    def tell(self, who: int, is_heard: bool) -> None:
        """A worker acks finished entries, and may get the answer only later."""
        self.worker(who).tell()
        if is_heard:
            self.worker(who).hear()

    @rule(who=WHO)
    def maintain(self, who: int) -> None:
        """A worker looks after itself and its group."""
        self.worker(who).hear()
        self.worker(who).compare()
        self.worker(who).maintain()

    @rule(count=st.integers(1, 4), is_operator=st.booleans())
    def others(self, count: int, is_operator: bool) -> None:
        """The other group reads, or an operator puts back what was given up."""
        if is_operator:
            self.model.replay()
        else:
            self.model.read_by_the_other(count)

    # What happens to them --------------------------------------------------------------------------------------------

    @rule(who=WHO, what=st.sampled_from(["is hired", "is hired", "leaves", "dies", "loses its lease", "is deaf"]))
    def staff(self, who: int, what: str) -> None:
        """A worker comes, goes, dies, or its read is not answered."""
        worker = self.worker(who)
        if what == "is hired":
            if len(self.model.workers) < WORKERS_LIMIT:
                self.model.hire()
        elif what == "leaves":
            self.model.dismiss(worker)
        elif what == "dies":
            self.model.kill(worker)
        elif what == "loses its lease":
            self.model.end_lease(worker)
        else:
            worker.take(3, is_heard=False)

    @rule(what=st.sampled_from([*DELETED, "clock", "clock"]), at=st.integers(0, 3), seconds=JUMPS)
    def disturb(self, what: str, at: int, seconds: float) -> None:
        """Somebody deletes something of Redis, or its clock jumps."""
        if what == "clock":
            self.model.pass_time(seconds)
        else:
            self.model.delete(what, at)

    @invariant()
    def nothing_is_lost(self) -> None:
        """No step loses an entry that Redis had."""
        self.model.check_nothing_is_lost()


def test_nothing_stands_for_ever(redis_server: RedisServer, key_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any schedule, the living workers finish all that Redis still has; without faults, in order and once."""
    for table, scripts in scripts_with_a_clock().items():
        monkeypatch.setattr(group, table, scripts)
    machine = type("Schedule", (Schedule,), {"url": redis_server.url, "prefix": key_prefix})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert machine.settled_count >= EXAMPLES
