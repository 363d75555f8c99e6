"""The project's settings for a web server under test whose pages have another policy: SECURE_CSP, as JSON."""

import json
import os

from project.settings import *  # noqa: F403

SECURE_CSP = json.loads(os.environ["SECURE_CSP"])
