"""This project's settings, and the topics of the map."""

from project.settings import *  # noqa: F403 - all of them
from project.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "benchmarks.map"]
