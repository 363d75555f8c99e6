"""
The name of this process, by which operators recognise it in the statistics and in the ledger of a notification.

Owns the name and its limit. Does not own the names of consumers of a stream (streams).
"""

import functools
import os
import socket

__all__ = ["PROCESS_NAME_LIMIT", "process_name"]

# Characters. The end of a longer host name is cut off.
PROCESS_NAME_LIMIT = 80


def process_name() -> str:
    """The host and the process id: "web-1:4711"."""
    # By the id, because a forked process inherits what is cached.
    return _name_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _name_of(pid: int) -> str:
    return f"{socket.gethostname()[: PROCESS_NAME_LIMIT - len(str(pid)) - 1]}:{pid}"
