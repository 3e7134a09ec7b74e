"""The error that is meant for people.

Every room may raise it. Its message is one line that says what happened, to what, and what to do;
the command line prints it and exits with 1, without a traceback.
"""

from __future__ import annotations


class HaloError(Exception):
    """Something the user can understand and act on. `str(error)` is a single line."""
