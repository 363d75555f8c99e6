"""
The project's Lua scripts, one file each; what a script takes and returns is said at its top.

Owns finding them and calling them.
"""

import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

__all__ = ["Script"]


class Script:
    """
    A script as servers know it.

    redis-py's own loads what a server does not know and then calls it by its hash again, which fails where the server
    was restarted between the two; and before each pipeline it asks the server whether it has the script, which is
    another round trip.

    Args:
        names: Of the files in this folder, without their ending; one that stands on others comes after them.

    Attributes:
        text: What it says.
    """

    def __init__(self, *names: str) -> None:
        files = resources.files(__name__)
        self.text = "\n".join(files.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self._sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, keys: Sequence[Any], arguments: Iterable[Any]) -> Any:
        """Call it, and return its answer."""
        words = (len(keys), *keys, *arguments)
        try:
            return client.evalsha(self._sha, *words)
        except NoScriptError:
            return client.eval(self.text, *words)

    async def arun(self, client: redis.asyncio.Redis, keys: Sequence[Any], arguments: Iterable[Any]) -> Any:
        """The async twin of `run`."""
        words = (len(keys), *keys, *arguments)
        try:
            return await client.evalsha(self._sha, *words)
        except NoScriptError:
            return await client.eval(self.text, *words)

    def add_to(self, pipeline: Any, number: int, keys: Sequence[Any], arguments: Iterable[Any]) -> None:
        """Add a call, the first of which (`number` 0) brings the text, so that the others can name it by its hash."""
        words = (len(keys), *keys, *arguments)
        if number:
            pipeline.evalsha(self._sha, *words)
        else:
            pipeline.eval(self.text, *words)
