"""
The project's Lua scripts, one file each; what a script takes and returns is said at its top.

Owns finding them. Does not own running them: `redis.register_script(source(name))` does, by hash, with the text only
where the server has not seen it yet.
"""

import functools
from importlib import resources

__all__ = ["source"]


@functools.cache
def source(name: str) -> str:
    """The text of `realtime/lua/<name>.lua`."""
    return resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
