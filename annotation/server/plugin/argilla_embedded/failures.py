"""What a failed request answers and leaves in the log: never SQL, never what was typed.

Argilla's own handlers answer with the text of any exception, which for one of the database is its whole statement, and
log a refused request with its body, passwords and all.
"""

from typing import Any

from argilla_server.api.routes import api_v1
from argilla_server.database import async_engine, sync_engine
from argilla_server.errors.base_errors import ValidationError
from argilla_server.errors.error_handler import ServerHTTPException
from argilla_server.use_cases.responses import upsert_responses_in_bulk
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

SAID = 1000
"""Characters of an error that are passed on."""
FAILED = "the server failed; its log says why"


def install() -> None:
    for engine in (async_engine.sync_engine, sync_engine):
        engine.hide_parameters = True  # a row's values, such as a webhook's secret, in errors of the database
    api_v1.add_exception_handler(RequestValidationError, invalid)
    api_v1.add_exception_handler(ValueError, refused)
    api_v1.add_exception_handler(Exception, failed)
    said = upsert_responses_in_bulk.ResponseBulkError
    upsert_responses_in_bulk.ResponseBulkError = lambda detail: said(detail=without_sql(detail))


async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """In Argilla's form: where and why, without the value. It is the sender's mistake and no matter for the log."""
    answer = ServerHTTPException(ValidationError(error))
    return JSONResponse({"detail": answer.detail}, status_code=answer.status_code)


async def refused(request: Request, error: ValueError) -> JSONResponse:
    return JSONResponse({"detail": without_sql(str(error))}, status_code=422)


async def failed(request: Request, error: Exception) -> JSONResponse:
    """The exception goes on from here to the web server, which logs it."""
    kind = f"{type(error).__module__}.{type(error).__name__}"
    detail: dict[str, Any] = {
        "code": "argilla.api.errors::GenericServerError",
        "params": {"type": "database" if isinstance(error, SQLAlchemyError) else kind, "message": FAILED},
    }
    return JSONResponse({"detail": detail}, status_code=500)


def without_sql(text: str) -> str:
    return text.partition("[SQL:")[0].strip()[:SAID]
