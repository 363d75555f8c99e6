"""
The WebSocket end: who is connected, what they hear, what they may say.

Owns the life of one connection: refuse who is not signed in, join the group of the user's topic, say hello, hand on
publications, answer pings, leave. Does not own the Origin check (origins), the form of frames (protocol), nor who the
user is: `scope["user"]` comes from Channels' AuthMiddlewareStack, which asks the database in a thread. Nothing here
touches the database, so a connection costs the event loop no thread hop after that.
"""

import asyncio
import contextlib
import logging
from typing import Any, NoReturn

from channels.consumer import AsyncConsumer
from channels.layers import get_channel_layer

from realtime import protocol
from realtime.close_codes import CloseCode
from realtime.exceptions import FrameRefused
from realtime.outage import REDIS_ERRORS, Outage
from realtime.topics import user_topic

__all__ = ["RealtimeConsumer"]

logger = logging.getLogger(__name__)

# Joining or leaving a group that takes longer than this is taken for a lost Redis.
LAYER_TIMEOUT_SECONDS = 5.0
# More refused objects than this end a connection: who misspells learns of it, a flood of rubbish costs little.
REFUSED_LIMIT = 16

# Shared by all connections of the process: an outage is one line in the log, not one for each client that tries.
_layer_outage = Outage("the channel layer")


class _Close(Exception):
    """Ends the connection from wherever it is raised."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


class _Gone(Exception):
    """The client has left."""


class RealtimeConsumer(AsyncConsumer):  # type: ignore[misc]
    """
    One WebSocket of one signed-in user, speaking `signalbox.v1`.

    Must be served behind AuthMiddlewareStack and OriginCheck: see `realtime.routing.websocket_application`.

    Guarantees:
        The group of the user's topic is joined before hello is sent: whatever is published after a client has seen
        hello reaches it, in publish order, as long as the channel layer loses nothing. The group is left when the
        connection ends, however it ends.
    """

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        # Not AsyncConsumer's own loop: that makes two tasks anew and hops to a thread for every message.
        self.base_send = send
        # Objects of this client that were refused so far.
        self.refused_count = 0
        await receive()
        subprotocol = protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in scope["subprotocols"] else None
        try:
            # Refused only after accept: a browser shows its page the close code, but not the status of a handshake, and
            # a page that does not know why it is refused tries for ever.
            await self.send({"type": "websocket.accept", "subprotocol": subprotocol})
            user = scope["user"]
            if not (user.is_authenticated and user.is_active):
                raise _Close(CloseCode.UNAUTHORISED, "sign in first")
            await self._serve(user.pk, receive)
        except* _Gone:
            pass
        except* _Close as group:
            close = next(error for error in group.exceptions if isinstance(error, _Close))
            with contextlib.suppress(OSError):
                await self.send({"type": "websocket.close", "code": int(close.code), "reason": close.reason})
        except* OSError:
            # Servers raise one from send() when the client has gone (ASGI 2.4); there is nobody left to tell.
            logger.debug("the client went away", exc_info=True)

    async def _serve(self, user_id: Any, receive: Any) -> None:
        topic = user_topic(user_id)
        layer = get_channel_layer(self.channel_layer_alias)
        # Not interrupted by the client's leaving: a layer has no way to forget a channel that is half made.
        channel = await self._join(layer, topic)
        # Whether the channel is being waited on; a layer forgets a channel when that wait is cancelled.
        waiting = False
        try:
            async with asyncio.TaskGroup() as tasks:
                # It raises when the connection is over, and that cancels what is below.
                tasks.create_task(self._listen(receive), name=f"realtime listen {topic}")
                await self._send_text(protocol.hello(user_id))
                while True:
                    waiting = True
                    event = await layer.receive(channel)
                    waiting = False
                    await self._hand_on(event)
        finally:
            await self._leave(layer, topic, channel, forget=not waiting)

    async def _join(self, layer: Any, topic: str) -> str:
        try:
            async with asyncio.timeout(LAYER_TIMEOUT_SECONDS):
                channel: str = await layer.new_channel()
                await layer.group_add(topic, channel)
        except REDIS_ERRORS as error:
            _layer_outage.begin(error)
            raise _Close(CloseCode.REDIS_LOST, "come back soon") from error
        _layer_outage.over()
        return channel

    async def _leave(self, layer: Any, topic: str, channel: str, *, forget: bool) -> None:
        try:
            async with asyncio.timeout(LAYER_TIMEOUT_SECONDS):
                await layer.group_discard(topic, channel)
                if forget:
                    await _forget(layer, channel)
        except REDIS_ERRORS as error:
            _layer_outage.begin(error)

    async def _hand_on(self, event: Any) -> None:
        match event:
            case {"type": "realtime.message", "topic": str(topic), "data": str(data)}:
                await self._send_text(protocol.message(topic, data))
            case _:
                logger.error("an event that is no realtime.message was sent to a user's group: %.200r", event)

    async def _listen(self, receive: Any) -> NoReturn:
        """Answer what the client says; raise when it leaves or must go."""
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                raise _Gone
            text = event.get("text")
            if text is None:
                raise _Close(CloseCode.PROTOCOL_ERROR, "binary frames are not understood")
            frame = text.encode()
            if len(frame) > protocol.FRAME_LIMIT_BYTES:
                raise _Close(CloseCode.PROTOCOL_ERROR, f"a frame is at most {protocol.FRAME_LIMIT_BYTES} bytes")
            answers = [self._answer(line) for line in frame.split(b"\n")]
            await self._send_text("\n".join(answers))

    def _answer(self, line: bytes) -> str:
        try:
            protocol.decode(line)
        except FrameRefused as refused:
            self.refused_count += 1
            if self.refused_count > REFUSED_LIMIT:
                raise _Close(CloseCode.PROTOCOL_ERROR, f"{REFUSED_LIMIT} frames were refused") from None
            return protocol.error(code=refused.code, detail=refused.detail)
        return protocol.PONG

    async def _send_text(self, text: str) -> None:
        await self.send({"type": "websocket.send", "text": text})


async def _forget(layer: Any, channel: str) -> None:
    # Layers have no word for it, but each forgets a channel when a receive() on it is cancelled, and that waits only
    # once everything held has been taken.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            while True:
                await layer.receive(channel)
