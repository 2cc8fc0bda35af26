"""Fixtures for all tests; and in the gate the same examples of properties each time (elsewhere always new ones)."""

import gc
import os
import signal
import sys
import tempfile

import pytest
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

gc.disable()  # while tests are collected, for what an import makes stays
_seen = 0
"""How many modules were loaded when their objects were last put aside."""


@pytest.fixture(autouse=True)
def modules_are_no_garbage() -> None:
    """Trainers collect garbage at every turn; through all that torch, TRL and vLLM keep, that takes half a second."""
    global _seen
    if len(sys.modules) > _seen + 200:
        gc.collect()
        gc.freeze()
        _seen = len(sys.modules)


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries find fault with what is left at the end
