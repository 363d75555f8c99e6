"""This project's settings with a channel layer of channels_redis; BENCHMARK_LAYER says which."""

import os

from benchmarks.stock.layers import channel_layers
from project.settings import *  # noqa: F403 - all of them
from project.settings import REDIS_URL

CHANNEL_LAYERS = channel_layers(os.environ["BENCHMARK_LAYER"], REDIS_URL)
