"""
The project's Lua scripts, one file each; what a script takes and returns is said at its top.

Owns finding them and naming them to a server: `redis.register_script(source(name))` for one call, `Script` for many in
one round trip.
"""

import functools
import hashlib
from importlib import resources
from typing import Any

__all__ = ["Script", "source"]


@functools.cache
def source(name: str) -> str:
    """The text of `realtime/lua/<name>.lua`; those of streams are `streams/<name>` and stand on what they share."""
    return resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


class Script:
    """
    A script for pipelines.

    redis-py's own asks the server before each pipeline whether it has the script, which is another round trip.

    Attributes:
        text: What it says.
        sha: What a server that has seen it calls it.
    """

    def __init__(self, name: str) -> None:
        self.text = source(name)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def add_to(self, pipeline: Any, number: int, arguments: tuple[Any, ...]) -> None:
        """Add a call, the first of which (`number` 0) brings the text, so that the others can name it by its hash."""
        if number:
            pipeline.evalsha(self.sha, *arguments)
        else:
            pipeline.eval(self.text, *arguments)
