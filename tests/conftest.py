"""Fixtures for all tests."""

from tests.server_fixtures import argilla_server, killable_server

__all__ = ["argilla_server", "killable_server"]
