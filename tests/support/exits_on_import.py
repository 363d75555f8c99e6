"""A module that is a program, and ends the process that imports it."""

import sys

sys.exit(3)
