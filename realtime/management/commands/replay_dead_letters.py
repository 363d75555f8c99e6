"""`manage.py replay_dead_letters`: gives entries that were given up another chance."""

from collections.abc import Sequence

import redis

from realtime.management.streams import DeadLettersCommand
from realtime.streams.dead_letters import DeadLetter, replay
from realtime.streams.group import GroupKeys


class Command(DeadLettersCommand):
    done = "replayed"
    help = """\
Gives entries that a consumer group has given up another chance, with all attempts.

Each goes back to the group that gave it up and to no other, before what is newer of the same user,
and workers take it within seconds. An entry is a dead letter or replayed, never both, whenever this
command is interrupted; running it again goes on. Mend first what made them fail: stream_status says
how many there are, and each says its last error."""
    epilog = """\
examples:
  manage.py replay_dead_letters --group bot
  manage.py replay_dead_letters --id 1795269929959-0
  manage.py replay_dead_letters notifications --limit 10 --json
"""

    def do(self, client: redis.Redis, group_keys: GroupKeys, letters: Sequence[DeadLetter]) -> int:
        return replay(client, group_keys, letters)
