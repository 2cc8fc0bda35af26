"""Bulk logging is slow for two reasons: settings are parsed with a pydantic adapter built again each time, and the
payload of every webhook event is built even where no webhook wants it."""

from collections.abc import Awaitable, Callable
from typing import Any

from argilla_server.api.schemas.v1.questions import QuestionSettings
from argilla_server.bulk import records_bulk
from argilla_server.contexts import datasets, distribution, records, webhooks
from argilla_server.models import MetadataProperty, Question
from argilla_server.models.metadata_properties import MetadataPropertySettings
from pydantic import TypeAdapter

Notify = Callable[[Any, Any, Any], Awaitable[list[Any]]]

NOTIFIERS = [
    (records_bulk, "notify_record_event_v1"),
    (distribution, "notify_record_event_v1"),
    (records, "notify_record_event_v1"),
    (datasets, "notify_response_event_v1"),
]


def install() -> None:
    questions, metadata = TypeAdapter(QuestionSettings), TypeAdapter(MetadataPropertySettings)
    Question.parsed_settings = property(lambda self: questions.validate_python(self.settings))
    MetadataProperty.parsed_settings = property(lambda self: metadata.validate_python(self.settings))
    for module, name in NOTIFIERS:
        setattr(module, name, _if_wanted(getattr(module, name)))


def _if_wanted(notify: Notify) -> Notify:
    async def notify_if_wanted(db: Any, event: Any, subject: Any) -> list[Any]:
        if "align_wanted_events" not in db.info:  # a session lives as long as one request
            enabled = await webhooks.list_enabled_webhooks(db)
            db.info["align_wanted_events"] = {name for webhook in enabled for name in webhook.events}
        return await notify(db, event, subject) if str(event) in db.info["align_wanted_events"] else []

    return notify_if_wanted
