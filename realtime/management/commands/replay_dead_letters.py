"""`manage.py replay_dead_letters`: retries entries that were given up."""

from collections.abc import Sequence

import redis

from realtime.management.streams import DeadLettersCommand
from realtime.streams.dead_letters import DeadLetter, replay
from realtime.streams.keys import GroupKeys


class Command(DeadLettersCommand):
    done = "replayed"
    help = """\
Retries entries that a consumer group has given up, with the full number of attempts.

Each goes back to the group that gave it up, ahead of newer entries of the same user, and workers
take it within seconds. If this command is interrupted, each entry is either a dead letter or
replayed, never both; run it again to continue. First fix what made them fail: stream_status shows
how many there are, and each has its last error."""
    epilog = """\
examples:
  manage.py replay_dead_letters --group bot
  manage.py replay_dead_letters --id 1795269929959-0
  manage.py replay_dead_letters notifications --limit 10 --json
"""

    def do(self, client: redis.Redis, group_keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
        return replay(client, group_keys, letters)
