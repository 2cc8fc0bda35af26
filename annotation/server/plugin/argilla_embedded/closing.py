"""Data sets that are closed for annotators are not listed for them, and have no next record.

Argilla has no such state, and does not write a changed value of a data set's metadata. So its guidelines say it, where
people read it on any Argilla: the owner's client sets these words, and takes them back. Of one whose labelling is done
an answer that somebody has before them is still taken; of one whose place another took none is taken or changed: all
who are not owners are kept out where Argilla decides who may answer.
"""

from collections.abc import Callable
from typing import Any

from argilla_embedded.endpoints import Endpoint, wrap
from argilla_server.api.policies.v1 import RecordPolicy, ResponsePolicy
from argilla_server.api.policies.v1.commons import PolicyAction
from argilla_server.models import User

CLOSED = "This data set is closed: what it asks was replaced. Please go on in the other one of this workspace."
DONE = "This data set is done: its questions have the answers they want. Thank you!"
"""As `annotation.argilla_dataset` has them, which cannot be imported here."""


def install() -> None:
    wrap("GET", "/me/datasets", _open_ones)
    _guard(RecordPolicy, "create_response", lambda record: record.dataset)
    for name in ("update", "delete"):
        _guard(ResponsePolicy, name, lambda response: response.record.dataset)


def is_closed(guidelines: str | None) -> bool:
    """Whether a data set with these guidelines is closed."""
    return guidelines in (CLOSED, DONE)


def _open_ones(endpoint: Endpoint) -> Endpoint:
    async def list_datasets(**given: Any) -> Any:
        found, user = await endpoint(**given), given["current_user"]
        if user.is_annotator:
            found.items = [dataset for dataset in found.items if not is_closed(dataset.guidelines)]
        return found

    return list_datasets


def _guard(policy: Any, name: str, dataset_of: Callable[[Any], Any]) -> None:
    """Let `policy` allow `name` to nobody but owners where the data set is closed."""
    allows = getattr(policy, name)

    def guarded(cls: Any, subject: Any) -> PolicyAction:
        allowed = allows(subject)

        async def is_allowed(actor: User) -> bool:
            return bool(await allowed(actor)) and (actor.is_owner or dataset_of(subject).guidelines != CLOSED)

        return is_allowed

    setattr(policy, name, classmethod(guarded))
