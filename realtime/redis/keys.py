"""
Every Redis name that the project uses.

Owns the names of keys and Redis channels, and which keys are permanent. The keys of one stream share a hash tag, so
that a script may use them together on a Redis Cluster.

Two sites that share one Redis have different prefixes or database numbers. Redis separates the keys of its databases,
but not their channels. So the name of a channel contains the database number, unless that is 0.
"""

from dataclasses import dataclass

__all__ = ["Keys"]


@dataclass(frozen=True, slots=True)
class Keys:
    """
    The names under one prefix.

    Args:
        prefix: Put before every name, so that projects, or tests, can share one Redis. Empty by default.
        database: The number of the Redis database; part of every channel, unless it is 0.
    """

    prefix: str = ""
    database: int = 0

    def stream(self, name: str) -> str:
        """The Redis Stream `name`. Permanent."""
        return f"{self.prefix}{name}"

    def stream_guard(self, name: str, guard: str) -> str:
        """Exists if the batch `guard` was appended to the stream `name` before. Expires."""
        return f"{{{self.prefix}{name}}}:appended:{guard}"

    def dead_letters(self, name: str, group: str) -> str:
        """The stream of entries of stream `name` that `group` has given up. Permanent."""
        return f"{{{self.prefix}{name}}}:dead:{group}"

    def key_owners(self, name: str, group: str) -> str:
        """A hash: which worker of `group` holds which key of stream `name`. Permanent; empty when all is done."""
        return f"{{{self.prefix}{name}}}:owners:{group}"

    def parked_entries(self, name: str, group: str) -> str:
        """A hash of the entries that wait in backlogs, with their attempts. Permanent; empty when all is done."""
        return f"{{{self.prefix}{name}}}:kept:{group}"

    def due_backlogs(self, name: str, group: str) -> str:
        """A sorted set: when each backlog is due whose key no worker holds. Permanent; empty when all is done."""
        return f"{{{self.prefix}{name}}}:due:{group}"

    def backlog(self, name: str, group: str, key: str) -> str:
        """A sorted set of the ids that wait in the backlog of `key`. Permanent; deleted when all of it is done."""
        return f"{{{self.prefix}{name}}}:line:{group}:{key}"

    def worker_lease(self, name: str, group: str, consumer: str) -> str:
        """The lease of a worker that is alive: its token. Expires."""
        return f"{{{self.prefix}{name}}}:worker:{group}:{consumer}"

    def group_check(self, name: str, group: str) -> str:
        """The worker that last checked `group` for stuck keys. Expires; no other worker checks before that."""
        return f"{{{self.prefix}{name}}}:check:{group}"

    def group_made(self, name: str, group: str) -> str:
        """When `group` was last created, in milliseconds: earlier entries may have been lost. Permanent."""
        return f"{{{self.prefix}{name}}}:made:{group}"

    def written_files(self, name: str, group: str) -> str:
        """
        A hash: the files that workers of `group` have begun to write → the ids of their entries. Permanent, but empty
        when all entries are acked.
        """
        return f"{{{self.prefix}{name}}}:files:{group}"

    def task_queue(self, queue: str) -> str:
        """The Redis Stream of the task queue `queue`. Permanent."""
        return self.stream(f"tasks:{queue}")

    def waiting_tasks(self, queue: str) -> str:
        """A sorted set of tasks that wait for a worker, by their place in the list. Permanent; empty when none wait."""
        return f"{{{self.task_queue(queue)}}}:waiting"

    def scheduled_tasks(self, queue: str) -> str:
        """A sorted set of tasks that are due later, by time. Permanent; empty when there are none."""
        return f"{{{self.task_queue(queue)}}}:scheduled"

    def successful_tasks(self, queue: str) -> str:
        """A sorted set of the newest tasks that succeeded, by time. Permanent."""
        return f"{{{self.task_queue(queue)}}}:successful"

    def failed_tasks(self, queue: str) -> str:
        """A sorted set of the newest tasks that failed, by time. Permanent."""
        return f"{{{self.task_queue(queue)}}}:failed"

    def task(self, queue: str, id: str) -> str:
        """A hash: one task and its result. Expires some time after the task has finished."""
        return f"{{{self.task_queue(queue)}}}:task:{id}"

    def unique_task(self, queue: str, key: str) -> str:
        """The id of the unfinished task with the unique key `key`. Permanent; deleted when the task has finished."""
        return f"{{{self.task_queue(queue)}}}:unique:{key}"

    def periodic_task(self, queue: str, name: str) -> str:
        """The last tick of the periodic task `name`, and its schedule. Expires 90 days after a worker has seen it."""
        return f"{{{self.task_queue(queue)}}}:periodic:{name}"

    def streams(self) -> str:
        """A set of the keys of all streams that have had a worker. Permanent."""
        return f"{self.prefix}signalbox:streams"

    def topic_position(self, topic: str) -> str:
        """Epoch and offset of the newest publication of `topic`. Expires a day after the last one."""
        return f"{self.prefix}signalbox:{{{topic}}}:position"

    def topic_history(self, topic: str) -> str:
        """The newest publications of `topic`, newest first. Expires."""
        return f"{self.prefix}signalbox:{{{topic}}}:history"

    def topic_snapshot(self, topic: str) -> str:
        """A hash: the newest publication of each key of `topic`. Expires."""
        return f"{self.prefix}signalbox:{{{topic}}}:snapshot"

    def topic_seen(self, topic: str) -> str:
        """A sorted set: when each key of `topic` was last published, in milliseconds. Expires."""
        return f"{self.prefix}signalbox:{{{topic}}}:seen"

    def topic_sweep(self, topic: str) -> str:
        """The lease of the process that removes the silent keys of `topic`: its id. Expires."""
        return f"{self.prefix}signalbox:{{{topic}}}:sweep"

    def topic_idempotency(self, topic: str, key: str) -> str:
        """The position of the publication with the idempotency key `key`. Expires."""
        return f"{self.prefix}signalbox:{{{topic}}}:once:{key}"

    def family_extents(self, family: str) -> str:
        """A hash: which process publishes on which topics of `family`, and in which part of the world. Expires."""
        return f"{self.prefix}signalbox:{{{family}}}:extents"

    def lease(self, name: str) -> str:
        """The id of the holder of the lease `name`. Expires."""
        return f"{self.prefix}signalbox:lease:{name}"

    def standstill(self, consumer: str) -> str:
        """A string: where the event loop of this worker process is blocked. Expires soon after it runs again."""
        return f"{self.prefix}signalbox:standstill:{consumer}"

    def counters(self, name: str) -> str:
        """A hash of counters: name → total since the hash was created. Permanent."""
        return f"{self.prefix}signalbox:counters:{name}"

    def statistics_minute(self, minute: int) -> str:
        """A hash: what all processes counted in one minute since the epoch. Expires after two hours."""
        return f"{self.prefix}signalbox:{{statistics}}:minute:{minute}"

    def statistics_hour(self, hour: int) -> str:
        """A hash: what all processes counted in one hour since the epoch. Expires after three days."""
        return f"{self.prefix}signalbox:{{statistics}}:hour:{hour}"

    def statistics_process(self, id: str) -> str:
        """A hash: the number of the process's last push of counters, and what it says about itself. Expires."""
        return f"{self.prefix}signalbox:{{statistics}}:process:{id}"

    def statistics_processes(self) -> str:
        """A sorted set: when each process was last seen, in milliseconds. Expires a day after the last one."""
        return f"{self.prefix}signalbox:{{statistics}}:processes"

    def channel(self, name: str) -> str:
        """The full name of the Redis channel `name`. All channels of the project are named by it."""
        return f"{self.prefix}db{self.database}:{name}" if self.database else f"{self.prefix}{name}"

    def ingress_channel(self) -> str:
        """The Redis channel on which other programs request notifications."""
        return self.channel("notification")

    def task_channel(self, id: str) -> str:
        """The Redis channel on which the end of a task is published."""
        return self.channel(f"signalbox:task:{id}")

    def probe_channel(self) -> str:
        """The prefix of the Redis channels on which the ingress's connection receives its own probes."""
        return self.channel("signalbox:probe")
