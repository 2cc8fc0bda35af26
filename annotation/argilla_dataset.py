"""Workspaces and datasets of an Argilla: found, made where they are missing, and never taken for ours when they are
not."""

import itertools
import re
from typing import Any

from align.errors import ConfigError, ServiceError
from annotation.argilla_api import Api
from annotation.form import Form
from annotation.page import FIELD, page
from annotation.questions import questions

GUIDELINES_LIMIT = 10_000
METADATA = {"purpose": "terms", "shown": "terms", "item": "terms", "repeat": "integer", "priority": "float"}
"""What every record says besides its text, to us and to the queue; annotators see none of it."""

CLOSED = "This data set is closed: what it asks was replaced. Please go on in the other one of this workspace."
DONE = "This data set is done: its questions have the answers they want. Thank you!"
"""Guidelines of a dataset that is closed for annotators: every Argilla shows them, and the embedded server acts on
them."""

IDENTITY = "align"
"""Key of a dataset's metadata under which the name stands that it has for us. What it is called is for people; datasets
of earlier versions are called by the name that they have for us."""
NAME_LIMIT = 200

_LABELLING = re.compile(r"(round|blind)-\d+-")

Dataset = dict[str, Any]
"""A dataset as Argilla's API gives it."""


def ensure_dataset(
    api: Api, workspace: str, name: str, guidelines: str | None, overlap: int, form: Form, title: str = ""
) -> Dataset:
    """The dataset that asks `form` of `overlap` people, made and published where it is missing.

    `name` is what it is for us, `title` what people read (the name where it is empty); of several with one title the
    later ones are numbered. Raises ConfigError where the guidelines are too long or a dataset of that name asks
    something else.
    """
    if guidelines is not None and len(guidelines) > GUIDELINES_LIMIT:
        raise ConfigError(
            f"the guidelines have {len(guidelines)} characters, and Argilla takes {GUIDELINES_LIMIT}",
            where="annotate.guidelines",
            hint="shorten the file",
        )
    place = _ensure_workspace(api, workspace)
    found = _find(api, place, name)
    if found is not None and found["status"] != "ready":  # a kill came between making and publishing it; it is empty
        api.call("DELETE", f"/datasets/{found['id']}")
        found = None
    if found is None:
        _make(api, place, name, guidelines, overlap, form, title or name)
        found = _find(api, place, name)
    if found is None:
        raise ServiceError(f"Argilla lost the dataset {name!r} that was just made", where=api.url)
    _check(api, found, overlap, form)
    if (found["guidelines"] or None) != (guidelines or None):
        api.call("PATCH", f"/datasets/{found['id']}", json={"guidelines": guidelines or None})
    return found


def close_others(api: Api, dataset: Dataset, family: str) -> list[str]:
    """Close for annotators the datasets of the other labellings beside `dataset`: those whose names begin with
    `family`, whose place it took, and those of others, which are done. Returns the ids of those that were open."""
    shut = []
    for other in others(api, dataset):
        words = CLOSED if identity_of(other).startswith(family) else DONE
        if other["guidelines"] not in (words, CLOSED):
            shut.append(str(other["id"]))
            close(api, other, words)
    return shut


def close(api: Api, dataset: Dataset, words: str = DONE) -> None:
    api.call("PATCH", f"/datasets/{dataset['id']}", json={"guidelines": words})


def others(api: Api, dataset: Dataset) -> list[Dataset]:
    """The published datasets of a run's other labellings, in the same workspace, by what they are for us."""
    found = api.call("GET", "/me/datasets", workspace_id=dataset["workspace_id"])["items"]
    beside = [
        d for d in found if _LABELLING.match(identity_of(d)) and d["id"] != dataset["id"] and d["status"] == "ready"
    ]
    return sorted(beside, key=identity_of)


def answered_since(dataset: Dataset) -> bool:
    """Whether anybody answered since the dataset itself was last changed, as by a closing."""
    return str(dataset["last_activity_at"]) > str(dataset["updated_at"])


def identity_of(dataset: Dataset) -> str:
    """The name that a dataset has for us."""
    return str((dataset["metadata"] or {}).get(IDENTITY) or dataset["name"])


def question_ids(api: Api, dataset: Dataset) -> dict[str, str]:
    """Question name → its id on the server."""
    return {q["name"]: q["id"] for q in api.call("GET", f"/datasets/{dataset['id']}/questions")["items"]}


def _ensure_workspace(api: Api, name: str) -> str:
    """The workspace's id."""
    for _ in range(2):
        for workspace in api.call("GET", "/me/workspaces")["items"]:
            if workspace["name"] == name:
                return str(workspace["id"])
        api.call("POST", "/workspaces", json={"name": name}, conflict=True)
    raise ServiceError(f"Argilla lost the workspace {name!r} that was just made", where=api.url)


def _find(api: Api, workspace_id: str, name: str) -> Dataset | None:
    found = api.call("GET", "/me/datasets", workspace_id=workspace_id)["items"]
    return next((d for d in found if identity_of(d) == name), None)


def _free_title(api: Api, workspace_id: str, title: str) -> str:
    """`title`, with a number where others have it."""
    taken = {d["name"] for d in api.call("GET", "/me/datasets", workspace_id=workspace_id)["items"]}
    titles = itertools.chain([title[:NAME_LIMIT]], (f"{title[: NAME_LIMIT - 9]} #{n}" for n in itertools.count(2)))
    return next(free for free in titles if free not in taken)


def _make(api: Api, workspace_id: str, name: str, guidelines: str | None, overlap: int, form: Form, title: str) -> None:
    """Each part may be there already, when a reply was lost and the call was repeated: then Argilla says conflict."""
    called = _free_title(api, workspace_id, title)
    body = {
        "name": called,
        "workspace_id": workspace_id,
        "guidelines": guidelines or None,
        "distribution": {"strategy": "overlap", "min_submitted": overlap},
        "metadata": {IDENTITY: name},
    }
    api.call("POST", "/datasets", json=body, conflict=True)
    made = _find(api, workspace_id, name)
    if made is None:
        raise ServiceError(f"Argilla lost the dataset {name!r} that was just made", where=api.url)
    path = f"/datasets/{made['id']}"
    settings = {"type": "custom", "template": page(), "advanced_mode": True}
    field = {"name": FIELD, "title": "Conversation", "required": True, "settings": settings}
    api.call("POST", f"{path}/fields", json=field, conflict=True)
    for question in questions(form):
        api.call("POST", f"{path}/questions", json=question, conflict=True)
    for key, kind in METADATA.items():
        hidden = {"name": key, "title": key, "settings": {"type": kind}, "visible_for_annotators": False}
        api.call("POST", f"{path}/metadata-properties", json=hidden, conflict=True)
    api.call("PUT", f"{path}/publish", done=lambda: api.call("GET", path)["status"] == "ready")


def _check(api: Api, dataset: Dataset, overlap: int, form: Form) -> None:
    fields = [f["name"] for f in api.call("GET", f"/datasets/{dataset['id']}/fields")["items"]]
    where = f"dataset {dataset['name']!r} at {api.url}"
    if fields != [FIELD]:
        raise ConfigError(
            f"it has the fields {fields}, so it is not ours", where=where, hint="give the run another name"
        )
    asked = _told_apart(api.call("GET", f"/datasets/{dataset['id']}/questions")["items"])
    wanted = _told_apart(questions(form))
    if asked != wanted:
        raise ConfigError(
            f"it asks {', '.join(asked)} in another form than this one, which asks {', '.join(wanted)}",
            where=where,
            hint="keep annotate.kind, rank_of, criteria and ask, or give the run another name",
        )
    if dataset["distribution"]["min_submitted"] != overlap:
        raise ConfigError(
            f"it was made for an overlap of {dataset['distribution']['min_submitted']}, and {overlap} is asked for",
            where=where,
            hint="keep annotate.overlap, or give the run another name",
        )


def _told_apart(asked: list[Dataset]) -> dict[str, tuple[bool, str, list[Any]]]:
    """What of the questions decides about the meaning of answers; titles may change."""
    return {
        q["name"]: (q["required"], q["settings"]["type"], [o["value"] for o in q["settings"].get("options") or []])
        for q in asked
    }
