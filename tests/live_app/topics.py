"""The vehicles of the demo, except that they do not fall silent: a test that stops them takes its time."""

from project.demo.topics import Vehicles
from realtime.topics import Snapshot

Vehicles.snapshot = Snapshot(absent_after_seconds=None)
