"""Libraries that Argilla imports and this server never calls: Elasticsearch's and OpenSearch's clients (the database is
the index) and `datasets` (this server does not use the network). Without them a start takes a third less."""

import sys
import types
from typing import Any

LIBRARIES = ("elasticsearch8", "opensearchpy", "datasets")


class _Absent:
    """What an import takes out of such a library: a name for annotations, and an error for whoever calls it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"{type(self).__name__} is not available: this server uses neither the network nor an index")


class _Library(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(f"{self.__name__}.{name}", (_Absent,), {})


def leave_out() -> None:
    """Have imports of `LIBRARIES` find stand-ins. Before the first import of Argilla."""
    sys.modules.update((name, _Library(name)) for name in LIBRARIES)
