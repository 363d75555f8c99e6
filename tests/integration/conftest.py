"""What the tests on real engines share."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own event loop; and uvloop too, where a module asks: `pytest.mark.asyncio(loop_factories=[…])`."""
    marker = item.get_closest_marker("asyncio")
    both = marker is not None and "loop_factories" in marker.kwargs
    return {"asyncio": asyncio.new_event_loop} | ({"uvloop": uvloop.new_event_loop} if both else {})
