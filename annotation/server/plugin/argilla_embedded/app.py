"""The application that uvicorn serves: Argilla's own, with our parts put in. The order of the steps matters."""

import contextlib
from collections.abc import AsyncIterator

from argilla_embedded import (  # noqa: F401 - importing `engine` registers it
    ENGINE,
    alone,
    closing,
    engine,
    erasing,
    failures,
    gate,
    jobs,
    login,
    outbox,
    owner,
    pragmas,
    privacy,
    schema,
    speed,
    status,
    ui,
)
from argilla_server import app
from argilla_server.settings import settings
from fastapi import FastAPI


def configure(app: FastAPI) -> FastAPI:
    if settings.search_engine != ENGINE or not (settings.database_is_sqlite or settings.database_is_postgresql):
        raise RuntimeError(f"this application needs ARGILLA_SEARCH_ENGINE={ENGINE} and SQLite or PostgreSQL")
    alone.claim()
    schema.migrate()
    jobs.install()
    outbox.install()
    speed.install()
    privacy.install()
    closing.install()
    erasing.install()
    status.install()
    failures.install()
    login.install()
    ui.install(app)
    app.add_middleware(gate.Gate)  # last, and so before all others
    _extend_lifespan(app)
    return app


def _extend_lifespan(app: FastAPI) -> None:
    argilla_lifespan = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await owner.ensure()
        await outbox.recover()
        async with argilla_lifespan(app), outbox.delivering(), jobs.running():
            yield

    app.router.lifespan_context = lifespan


configure(app)
