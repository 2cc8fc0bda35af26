"""What Argilla would show to annotators and this server does not.

Argilla's search gives annotators their own answers and the metadata that are visible to them. Ways round that are
closed here; owners, and admins in their workspaces, see what they always saw.

1. One record by its id comes with everybody's answers and all metadata. An annotator gets it as the search gives it.
2. A filter or sort by a hidden metadata property tells its value by what is found. To an annotator there is no such
   property.
3. The progress of users tells who else labels, and how much. An annotator gets their own.
4. The progress of a data set counts the records that have all the answers they want, so that it stands at 0.00% where
   people have answered for hours and others have not come yet. An annotator gets their own: what they have answered or
   skipped, of that and what the queue still has for them. Records that others have completed are no longer pending for them.
"""

from typing import Any

from argilla_embedded.endpoints import Endpoint, wrap
from argilla_embedded.engine import own_progress
from argilla_server.api.handlers.v1.datasets.records import _filter_record_metadata_for_user
from argilla_server.api.policies.v1 import MetadataPropertyPolicy, is_authorized
from argilla_server.api.schemas.v1.records import MetadataFilterScope
from argilla_server.errors.future import UnprocessableEntityError
from argilla_server.models import MetadataProperty
from sqlalchemy.orm.attributes import set_committed_value


def install() -> None:
    wrap("GET", "/records/{record_id}", _own_view)
    wrap("POST", "/me/datasets/{dataset_id}/records/search", _without_hidden_metadata)
    wrap("GET", "/datasets/{dataset_id}/users/progress", _own_progress)
    wrap("GET", "/datasets/{dataset_id}/progress", _own_part)
    wrap("GET", "/me/datasets/{dataset_id}/metrics", _own_rest)


def _own_view(endpoint: Endpoint) -> Endpoint:
    async def get_record(**given: Any) -> Any:
        record, user = await endpoint(**given), given["current_user"]
        if user.is_annotator:
            await record.dataset.awaitable_attrs.metadata_properties
            own = [response for response in record.responses if response.user_id == user.id]
            set_committed_value(record, "responses", own)  # the answer to this request changes, the database does not
            set_committed_value(record, "metadata_", await _filter_record_metadata_for_user(record, user))
        return record

    return get_record


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


def _own_progress(endpoint: Endpoint) -> Endpoint:
    async def users_progress(**given: Any) -> Any:
        progress, user = await endpoint(**given), given["current_user"]
        if user.is_annotator:
            progress.users = [one for one in progress.users if one.username == user.username]
        return progress

    return users_progress


def _own_part(endpoint: Endpoint) -> Endpoint:
    async def dataset_progress(**given: Any) -> Any:
        progress, user = await endpoint(**given), given["current_user"]
        if user.is_annotator:
            done, left = await own_progress(given["dataset_id"], user.id)
            progress.total, progress.completed, progress.pending = done + left, done, left
            progress.users = [one for one in progress.users if one.username == user.username]
        return progress

    return dataset_progress


def _own_rest(endpoint: Endpoint) -> Endpoint:
    async def user_metrics(**given: Any) -> Any:
        metrics, user = await endpoint(**given), given["current_user"]
        if user.is_annotator:
            found = metrics.responses
            _, left = await own_progress(given["dataset_id"], user.id)
            found.pending = max(left - found.draft, 0)
            found.total = found.submitted + found.discarded + found.draft + found.pending
        return metrics

    return user_metrics
