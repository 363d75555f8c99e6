"""When a stopping web server closes its connections."""

import asyncio

from realtime.websocket.connection import CLOSE_SPREAD_FRACTION, FULL_SPREAD_COUNT, ServerSockets


async def test_many_connections_are_closed_over_half_of_the_grace_period_and_few_sooner() -> None:
    """So that they do not all connect again at once; a server with one connection stops almost at once."""
    connections: set[object] = set()
    loop = asyncio.get_running_loop()
    sockets = ServerSockets(loop=loop, connections=connections, keepalive=None, grace_seconds=30)
    longest_seconds = 30 * CLOSE_SPREAD_FRACTION
    for count in (1, FULL_SPREAD_COUNT, 2 * FULL_SPREAD_COUNT):
        connections |= set(range(count))
        delays = [sockets.close_delay_seconds() for _ in range(1_000)]
        limit_seconds = longest_seconds * min(1, count / FULL_SPREAD_COUNT)
        assert 0 <= min(delays) < limit_seconds / 4
        assert limit_seconds * 3 / 4 < max(delays) <= limit_seconds
