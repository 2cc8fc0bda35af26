"""Fixtures for all tests; and in the gate the same examples of properties each time (elsewhere always new ones)."""

import os
import signal
import tempfile

from hypothesis import settings

from tests.server_fixtures import (
    argilla_on_postgres,
    argilla_server,
    either_server,
    killable_either,
    killable_server,
    postgres,
)

__all__ = ["argilla_on_postgres", "argilla_server", "either_server", "killable_either", "killable_server", "postgres"]

settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background so, and processes of ours inherit it: no Ctrl-C of a test would reach them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Kept scores of another day would answer for the code under test; subprocesses inherit this.
_CACHE = tempfile.TemporaryDirectory(prefix="align-cache-")
os.environ["ALIGN_CACHE"] = _CACHE.name
