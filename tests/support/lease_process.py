"""A process that holds a lease while it can: `python -m tests.support.lease_process URL KEY HOLDER TTL_SECONDS`."""

import asyncio
import sys

from realtime.redis import clients
from realtime.redis.lease import Lease


async def main(url: str, key: str, holder: str, ttl_seconds: str) -> None:
    """Want the lease until killed."""
    lease = Lease(clients.async_publisher(url), key, ttl_seconds=float(ttl_seconds), holder=holder)
    await lease.run_while_held(lambda: asyncio.sleep(3600))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
