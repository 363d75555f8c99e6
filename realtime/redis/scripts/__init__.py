"""
The project's Lua scripts, one file each; the first lines of each describe its keys, arguments and result.

Owns loading and calling them. Does not own what they do.
"""

import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

from realtime.redis.connection_checks import BeforeTexts, unexpected

__all__ = ["Call", "Script"]

# The keys and the arguments of one call.
type Call = tuple[Sequence[Any], Sequence[Any]]


class Script:
    """
    A Lua script, called by its hash.

    redis-py's own class loads a script that the server does not know and then calls it by its hash again, which fails
    if the server was restarted in between. Before each pipeline it also asks the server whether it has the script,
    which costs a round trip.

    Args:
        names: The files in this folder, without suffix; a script comes after those that it uses.
        answer: The types of its valid answers: int, list, or NoneType for nil.
        takes_texts: All its keys and arguments are str or bytes, as the types of its callers say. Saves looking at each
            one, for scripts that get hundreds.

    Attributes:
        text: The source of all files.
    """

    def __init__(self, *names: str, answer: type | tuple[type, ...], takes_texts: bool = False) -> None:
        self._name, self._answer = names[-1], answer
        files = resources.files(__name__)
        self.text = "\n".join(files.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self._sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        if takes_texts:
            self.text, self._sha = BeforeTexts(self.text), BeforeTexts(self._sha)

    def run(self, client: redis.Redis, keys: Sequence[Any], arguments: Iterable[Any]) -> Any:
        """Call the script and return its answer; raises redis.InvalidResponse for an answer of another type."""
        words = _words(keys, arguments)
        try:
            answer = client.evalsha(self._sha, *words)
        except NoScriptError:
            answer = client.eval(self.text, *words)
        if not isinstance(answer, self._answer):
            client.connection_pool.disconnect(inuse_connections=False)
            raise unexpected(self._name, answer)
        return answer

    async def arun(self, client: redis.asyncio.Redis, keys: Sequence[Any], arguments: Iterable[Any]) -> Any:
        """The async twin of `run`."""
        words = _words(keys, arguments)
        try:
            answer = await client.evalsha(self._sha, *words)
        except NoScriptError:
            answer = await client.eval(self.text, *words)
        if not isinstance(answer, self._answer):
            await client.connection_pool.disconnect(inuse_connections=False)
            raise unexpected(self._name, answer)
        return answer

    def run_all(self, client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
        """Make all calls in order, in one round trip, and return their answers."""
        if len(calls) == 1:
            return [self.run(client, *calls[0])]
        with client.pipeline(transaction=False) as pipeline:
            self._add(pipeline, calls)
            answers = pipeline.execute()
        if not all(isinstance(answer, self._answer) for answer in answers):
            client.connection_pool.disconnect(inuse_connections=False)
            raise unexpected(self._name, answers)
        return answers

    async def arun_all(self, client: redis.asyncio.Redis, calls: Sequence[Call]) -> list[Any]:
        """The async twin of `run_all`."""
        if len(calls) == 1:
            return [await self.arun(client, *calls[0])]
        async with client.pipeline(transaction=False) as pipeline:
            self._add(pipeline, calls)
            answers = await pipeline.execute()
        if not all(isinstance(answer, self._answer) for answer in answers):
            await client.connection_pool.disconnect(inuse_connections=False)
            raise unexpected(self._name, answers)
        return answers

    def _add(self, pipeline: Any, calls: Sequence[Call]) -> None:
        """Add the calls to the pipeline. The first one sends the script's text, so that the others can use its hash."""
        for number, (keys, arguments) in enumerate(calls):
            words = _words(keys, arguments)
            if number:
                pipeline.evalsha(self._sha, *words)
            else:
                pipeline.eval(self.text, *words)


def _words(keys: Sequence[Any], arguments: Iterable[Any]) -> tuple[Any, ...]:
    """What EVALSHA needs after the hash. The number of keys is a text: commands without numbers are packed faster."""
    return (str(len(keys)), *keys, *arguments)
