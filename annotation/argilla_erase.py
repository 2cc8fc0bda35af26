"""What is forgotten leaves an Argilla: answers, skips and drafts in every data set of a workspace, and tasks as a
whole."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from annotation.argilla_api import Api, Refused
from annotation.argilla_backend import STATUS, annotator_of
from annotation.argilla_records import RECORDS_A_CALL, read_records

SCRUB_TIMEOUT = 1800.0
"""Seconds for the server to write its database's files again."""
EMBEDDED = "embedded"
"""What the embedded server calls its search engine."""


@dataclass(slots=True)
class Erased:
    """How many `answers` (and skips) and `drafts` went, what the `accounts` of whoever said them are called, and
    sentences about what `remains`, with the way out."""

    answers: int = 0
    drafts: int = 0
    accounts: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)


def people(api: Api) -> dict[str, str]:
    """Everybody with an account: annotator → what that person is called now."""
    return {annotator_of(user): str(user["username"]) for user in api.call("GET", "/users")["items"]}


def erase(api: Api, workspace: str, annotators: Collection[str], tasks: Collection[str]) -> Erased:
    """Delete what `annotators` said in `workspace`, and let them label there no more, and delete `tasks` with all that
    was said about them. What a server refuses is among what remains. Doing it again goes on. Raises ServiceError where
    the server does not answer.
    """
    done = Erased()
    places = [w["id"] for w in api.call("GET", "/me/workspaces")["items"] if w["name"] == workspace]
    users = {user["id"]: user for user in api.call("GET", "/users")["items"]}
    who = {identity for identity, user in users.items() if annotator_of(user) in annotators}
    for place in places:
        members = {member["id"] for member in api.call("GET", f"/workspaces/{place}/users")["items"]}
        for member in sorted(members & who):  # first, so that nothing more comes while we delete
            _delete(api, f"/workspaces/{place}/users/{member}", "a member of the workspace", done)
        for dataset in api.call("GET", "/me/datasets", workspace_id=place)["items"]:
            if dataset["status"] == "ready":
                _erase_in(api, dataset, who, tasks, done)
    if places:
        _scrub(api, done)
    done.accounts = sorted(str(users[identity]["username"]) for identity in who)
    return done


def _erase_in(api: Api, dataset: dict[str, Any], who: set[str], tasks: Collection[str], done: Erased) -> None:
    records = read_records(api, dataset["id"], lambda record: None)
    where = f"in {dataset['name']}"
    for response in (r for record in records if record.task not in tasks for r in record.responses):
        if response["user_id"] in who and _delete(api, f"/responses/{response['id']}", f"an answer {where}", done):
            _count(done, response["status"])
    dead = [record for record in records if record.task in tasks]
    for start in range(0, len(dead), RECORDS_A_CALL):
        some = dead[start : start + RECORDS_A_CALL]
        ids = ",".join(record.id for record in some)
        if _delete(api, f"/datasets/{dataset['id']}/records", f"{len(some)} tasks {where}", done, ids=ids):
            for response in (r for record in some for r in record.responses):
                _count(done, response["status"])


def _delete(api: Api, path: str, what: str, done: Erased, **params: Any) -> bool:
    try:
        api.call("DELETE", path, **params)
    except Refused as error:
        done.remains.append(f"{what} at {api.url}: {error.what}; whoever runs that server can delete it")
        return False
    return True


def _count(done: Erased, status: str) -> None:
    if status in STATUS:
        done.answers += 1
    else:
        done.drafts += 1


def _scrub(api: Api, done: Erased) -> None:
    """Have the embedded server take what is deleted out of its files; of another one say that nobody knows."""
    engine = api.call("GET", "/status").get("search_engine") or {}
    if engine.get("name") != EMBEDDED:
        done.remains.append(
            f"deleted rows, logs and an index at {api.url}, a server that is not ours: ask whoever runs it to erase them"
        )
        return
    api.call("PUT", "/align/erased", timeout=SCRUB_TIMEOUT)
    if engine.get("database") == "postgresql":
        done.remains.append(
            "PostgreSQL's write-ahead log and archives of it, until its own rules let them go: see whoever runs it"
        )
