"""The settings under test for a project that keeps naive local times: USE_TZ off, in a zone that is not UTC."""

from tests.settings import *  # noqa: F403

USE_TZ = False
TIME_ZONE = "America/New_York"
