"""What Argilla would show to annotators and this server does not.

Argilla's search gives annotators their own answers and the metadata that are visible to them. Ways round that are
closed here; owners, and admins in their workspaces, see what they always saw.

1. One record by its id comes with everybody's answers and all metadata. An annotator gets it as the search gives it.
2. A filter or sort by a hidden metadata property tells its value by what is found. To an annotator there is no such
   property.
3. The progress of users tells who else labels, and how much. An annotator gets their own.
4. The progress of a data set counts the records that have all the answers they want, so that it stands at 0.00% where
   people have answered for hours and others have not come yet. An annotator gets their own: what they have answered or
   skipped, of that and what the queue still has for them. Records that others have completed are no longer pending for
   them.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from argilla_embedded.endpoints import Endpoint, wrap
from argilla_embedded.engine import own_progress
from argilla_server.api.handlers.v1.datasets.records import _filter_record_metadata_for_user
from argilla_server.api.policies.v1 import MetadataPropertyPolicy, is_authorized
from argilla_server.api.schemas.v1.records import MetadataFilterScope
from argilla_server.errors.future import UnprocessableEntityError
from argilla_server.models import MetadataProperty
from sqlalchemy.orm.attributes import set_committed_value

Change = Callable[[Any, dict[str, Any]], Awaitable[None]]
"""Changes an endpoint's answer; takes it and what the endpoint was given."""


def install() -> None:
    wrap("GET", "/records/{record_id}", _to_annotators(_own_view))
    wrap("POST", "/me/datasets/{dataset_id}/records/search", _without_hidden_metadata)
    wrap("GET", "/datasets/{dataset_id}/users/progress", _to_annotators(_own_name))
    wrap("GET", "/datasets/{dataset_id}/progress", _to_annotators(_own_part))
    wrap("GET", "/me/datasets/{dataset_id}/metrics", _to_annotators(_own_rest))


def _to_annotators(change: Change) -> Callable[[Endpoint], Endpoint]:
    """What an endpoint answers to annotators is changed; to others it is as it was."""

    def wrapper(endpoint: Endpoint) -> Endpoint:
        async def answer(**given: Any) -> Any:
            found = await endpoint(**given)
            if given["current_user"].is_annotator:
                await change(found, given)
            return found

        return answer

    return wrapper


async def _own_view(record: Any, given: dict[str, Any]) -> None:
    user = given["current_user"]
    await record.dataset.awaitable_attrs.metadata_properties
    own = [response for response in record.responses if response.user_id == user.id]
    set_committed_value(record, "responses", own)  # the answer to this request changes, the database does not
    set_committed_value(record, "metadata_", await _filter_record_metadata_for_user(record, user))


def _without_hidden_metadata(endpoint: Endpoint) -> Endpoint:
    async def search(**given: Any) -> Any:
        user, body = given["current_user"], given["body"]
        if user.is_annotator:
            filters = (body.filters and body.filters.and_) or []
            for name in {
                part.scope.metadata_property
                for part in [*filters, *(body.sort or [])]
                if isinstance(part.scope, MetadataFilterScope)
            }:
                await _check_visible(given, name)
        return await endpoint(**given)

    return search


async def _check_visible(given: dict[str, Any], name: str) -> None:
    found = await MetadataProperty.get_by(given["db"], name=name, dataset_id=given["dataset_id"])
    if found is not None:
        await found.awaitable_attrs.dataset
        if await is_authorized(given["current_user"], MetadataPropertyPolicy.get(found)):
            return
    raise UnprocessableEntityError(f"there is no metadata property {name!r}")


async def _own_name(progress: Any, given: dict[str, Any]) -> None:
    progress.users = [one for one in progress.users if one.username == given["current_user"].username]


async def _own_part(progress: Any, given: dict[str, Any]) -> None:
    await _own_name(progress, given)
    own = await own_progress(given["dataset_id"], given["current_user"].id)
    progress.total, progress.completed, progress.pending = own.done + own.left, own.done, own.left


async def _own_rest(metrics: Any, given: dict[str, Any]) -> None:
    found, own = metrics.responses, await own_progress(given["dataset_id"], given["current_user"].id)
    found.pending = own.left - own.begun
    found.total = found.submitted + found.discarded + found.draft + found.pending
