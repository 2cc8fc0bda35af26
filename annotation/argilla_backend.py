"""Argilla as the annotation backend: one workspace per run, one dataset per round. The only importer of `argilla`.

What leaves here is canonical. On the screen there are sides: a person chooses "left" or "right" (labelled A and B),
and the record's hidden metadata say which candidate stood where. `to_side` and `from_side` are the one place where the
two meet.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from align.errors import ConfigError, DataError, ServiceError
from align.types import Judgement, Task, judgement_id
from annotation.argilla_api import Api, not_argilla, unreachable, wrong_key
from annotation.backend import Answer, Progress, Submitted, progress_of
from annotation.page import FIELD, page, payload

QUESTION, REASON = "preference", "reason"
LABELS = {"left": "A is better", "right": "B is better", "tie": "Tie", "both_bad": "Both are bad"}
STATUS = {"submitted": "submitted", "discarded": "skipped"}
"""Argilla's response status → ours; drafts are nobody's answer yet."""

SUPPORTED = (2, 8)
"""Argilla's oldest major and minor version that has all we use."""

GUIDELINES_LIMIT = 10_000
RECORDS_A_CALL, BYTES_A_CALL, ANSWERS_A_CALL, RECORDS_A_PAGE = 100, 4_000_000, 100, 100
SIMULATED = "Simulated annotator"
"""First name of users that are personas; a person's account is never used for one."""


def to_side(outcome: str, shown: Sequence[int]) -> str:
    """Canonical "a"/"b" → "left"/"right" for a record with that order; other outcomes stay."""
    return ("left", "right")[list(shown).index("ab".index(outcome))] if outcome in ("a", "b") else outcome


def from_side(label: str, shown: Sequence[int]) -> str:
    """The inverse of `to_side`."""
    return "ab"[shown[("left", "right").index(label)]] if label in ("left", "right") else label


def open_argilla(
    url: str,
    api_key: str,
    *,
    workspace: str,
    dataset: str,
    guidelines: str | None,
    overlap: int,
    patience: float = 30.0,
) -> "ArgillaBackend":
    """Connect as the owner and make the workspace and the dataset where they are missing.

    `overlap` is how many submitted answers complete a task. Calls are repeated for up to `patience` seconds while the
    server is away. Raises ServiceError (no server, wrong key, another version) and ConfigError (guidelines too long;
    the dataset exists with another overlap or layout).
    """
    if guidelines is not None and len(guidelines) > GUIDELINES_LIMIT:
        raise ConfigError(
            f"the guidelines have {len(guidelines)} characters, and Argilla takes {GUIDELINES_LIMIT}",
            where="annotate.guidelines",
            hint="shorten the file",
        )
    client = _connect(url.rstrip("/"), api_key)
    api = Api(client.http_client, url.rstrip("/"), patience)
    _make_workspace(api, workspace)
    found = _dataset(api, workspace, dataset)
    if found is not None and found["status"] != "ready":  # a kill came between making and publishing it; it is empty
        api.call("DELETE", f"/datasets/{found['id']}")
        found = None
    if found is None:
        _make_dataset(client, workspace, dataset, guidelines, overlap)
        found = _dataset(api, workspace, dataset)
    if found is None:
        raise ServiceError(f"Argilla lost the dataset {dataset!r} that was just made", where=api.url)
    _check_dataset(api, found, overlap)
    if (found["guidelines"] or None) != (guidelines or None):
        api.call("PATCH", f"/datasets/{found['id']}", json={"guidelines": guidelines or None})
    return ArgillaBackend(api, found["id"], found["workspace_id"], overlap)


class ArgillaBackend:
    """One dataset. Judgements come out with canonical outcomes, revision 0 and the server's time."""

    def __init__(self, api: Api, dataset_id: str, workspace_id: str, overlap: int) -> None:
        self._api, self._dataset, self._workspace, self._overlap = api, dataset_id, workspace_id, overlap
        self._places: dict[str, tuple[str, list[int]]] = {}

    @property
    def url(self) -> str:
        return f"{self._api.url}/dataset/{self._dataset}/annotation-mode"

    def submit(self, tasks: Sequence[Task]) -> Submitted:
        for task in tasks:
            self._check_task(task)
        present = self._index()
        for task in tasks:
            if task.id in present and present[task.id][1] != task.shown:
                raise DataError(
                    "the task is on the server with its answers in another order",
                    where=f"task {task.id}",
                    hint="use the seed it was made with, or another run name",
                )
        missing = [t for t in tasks if t.id not in present]
        for batch in _batches([_record(t) for t in missing]):
            self._api.call("PUT", f"/datasets/{self._dataset}/records/bulk", json={"items": batch})
        self._places.clear()
        return Submitted(added=len(missing), present=len(tasks) - len(missing))

    def progress(self) -> Progress:
        records, names = self._records(), self._usernames()
        members = self._api.call("GET", f"/workspaces/{self._workspace}/users")["items"]
        status = {r["external_id"]: {names[a["user_id"]]: STATUS[a["status"]] for a in _answers(r)} for r in records}
        return progress_of(status, self._overlap, {m["username"] for m in members})

    def collect(self) -> list[Judgement]:
        records, names = self._records(), self._usernames()
        found = [_judgement(r, a, names[a["user_id"]]) for r in records for a in _answers(r)]
        return sorted(found, key=lambda j: j.id)

    def ensure_annotator(self, name: str) -> str:
        """Make the simulated annotator `name` (random password), let it label here, and return its API key.

        Raises ConfigError where a person has that user name.
        """
        user = self._user(name)
        if user is None:
            person = {
                "username": name,
                "first_name": SIMULATED,
                "role": "annotator",
                "password": secrets.token_urlsafe(32),
            }
            self._api.call("POST", "/users", json=person, conflict=True)
            user = self._user(name)
        if user is None or user["first_name"] != SIMULATED or user["role"] != "annotator":
            raise ConfigError(
                f"the user {name!r} of this server is a person",
                where="annotate.by.personas",
                hint="give the persona another name",
            )
        self._admit(user["id"])
        return str(user["api_key"])

    def admit_people(self) -> list[str]:
        """Let every person with an annotator's account on this server label here; returns the names of the new ones."""
        members = {m["id"] for m in self._api.call("GET", f"/workspaces/{self._workspace}/users")["items"]}
        people = [
            u
            for u in self._api.call("GET", "/users")["items"]
            if u["role"] == "annotator" and u["first_name"] != SIMULATED
        ]
        new = [u for u in people if u["id"] not in members]
        for user in new:
            self._admit(user["id"])
        return sorted(user["username"] for user in new)

    def _admit(self, user_id: str) -> None:
        self._api.call("POST", f"/workspaces/{self._workspace}/users", json={"user_id": user_id}, conflict=True)

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        if any(a.task_id not in self._places for a in answers):
            self._places = self._index()
        for start in range(0, len(answers), ANSWERS_A_CALL):
            items = [self._response(a) for a in answers[start : start + ANSWERS_A_CALL]]
            reply = self._api.call("POST", "/me/responses/bulk", json={"items": items}, key=api_key)
            for item in reply["items"]:
                if item["error"]:
                    raise ServiceError(f"Argilla refused an answer: {item['error']['detail']}", where=self._api.url)

    def _response(self, answer: Answer) -> dict[str, Any]:
        if answer.task_id not in self._places:
            raise DataError("the task is not on the server", where=f"task {answer.task_id}", hint="submit it first")
        record, shown = self._places[answer.task_id]
        if answer.outcome == "skipped":
            return {"record_id": record, "status": "discarded"}
        values = {QUESTION: {"value": to_side(answer.outcome, shown)}}
        return {
            "record_id": record,
            "status": "submitted",
            "values": values | ({REASON: {"value": answer.reason}} if answer.reason else {}),
        }

    def _check_task(self, task: Task) -> None:
        if task.kind != "pair":
            raise DataError(f"there is no labelling page for tasks of kind {task.kind!r} yet", where=f"task {task.id}")
        if task.wanted != self._overlap:
            raise DataError(
                f"the task wants {task.wanted} answers, and its dataset {self._overlap}", where=f"task {task.id}"
            )

    def _index(self) -> dict[str, tuple[str, list[int]]]:
        """Task id → (record id, order shown) of all records."""
        return {r["external_id"]: (r["id"], _shown(r)) for r in self._records()}

    def _records(self) -> list[dict[str, Any]]:
        """All records with all responses. Argilla pages by insertion time, which batches share, so a page may repeat
        a record and miss another: that is seen by counting, and read again."""
        for _ in range(3):
            found: dict[str, dict[str, Any]] = {}
            total, offset = 1, 0
            while offset < total:
                reply = self._api.call(
                    "GET",
                    f"/datasets/{self._dataset}/records",
                    include="responses",
                    offset=offset,
                    limit=RECORDS_A_PAGE,
                )
                total, offset = reply["total"], offset + RECORDS_A_PAGE
                found.update((record["id"], record) for record in reply["items"])
            if len(found) == total:
                return list(found.values())
        raise ServiceError(
            f"Argilla says that there are {total} records and lists {len(found)}",
            where=self._api.url,
            hint="run the same command again",
        )

    def _usernames(self) -> dict[str, str]:
        return {user["id"]: user["username"] for user in self._api.call("GET", "/users")["items"]}

    def _user(self, name: str) -> dict[str, Any] | None:
        return next((u for u in self._api.call("GET", "/users")["items"] if u["username"] == name), None)


def _connect(url: str, api_key: str) -> Any:
    """An SDK client of the owner. Whatever is wrong with the server is a ServiceError."""
    import argilla
    import httpx

    with _sdk_errors(url):
        version = httpx.get(f"{url}/api/v1/version", timeout=10, trust_env=False).json()["version"]
        major, minor = (int(part) for part in version.split(".")[:2])
        if (major, minor) < SUPPORTED or major > SUPPORTED[0]:
            raise ServiceError(f"this is Argilla {version}", where=url, hint="2.8 or a later 2.x is needed")
        client = argilla.Argilla(api_url=url, api_key=api_key, timeout=60, retries=0)
        if client.me.role != "owner":
            raise ServiceError(
                f"the API key belongs to {client.me.username!r}, who is not an owner",
                where=url,
                hint="give the owner's key of this server",
            )
    return client


@contextmanager
def _sdk_errors(url: str) -> Iterator[None]:
    """What the SDK raises, as one sentence."""
    import httpx
    from argilla._exceptions import ArgillaAPIError, ArgillaCredentialsError, SettingsError

    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise unreachable(url, error) from error
    except ArgillaCredentialsError as error:
        raise wrong_key(url) from error
    except SettingsError as error:
        raise ServiceError(
            "Argilla did not take the new dataset", where=url, hint="see its log, then run the same command again"
        ) from error
    except (ValueError, KeyError, TypeError, ArgillaAPIError) as error:
        raise not_argilla(url) from error


def _make_workspace(api: Api, name: str) -> None:
    if all(w["name"] != name for w in api.call("GET", "/me/workspaces")["items"]):
        api.call("POST", "/workspaces", json={"name": name}, conflict=True)


def _dataset(api: Api, workspace: str, name: str) -> dict[str, Any] | None:
    place = next(w["id"] for w in api.call("GET", "/me/workspaces")["items"] if w["name"] == workspace)
    found = api.call("GET", "/me/datasets", workspace_id=place, name=name)["items"]
    return next((d for d in found if d["name"] == name), None)


def _make_dataset(client: Any, workspace: str, name: str, guidelines: str | None, overlap: int) -> None:
    """No question has suggestions: Argilla would select them beforehand, and Enter would submit them as a person's."""
    import argilla as rg

    settings = rg.Settings(
        guidelines=guidelines or None,
        fields=[rg.CustomField(name=FIELD, title="Conversation", template=page(), advanced_mode=True)],
        questions=[
            rg.LabelQuestion(name=QUESTION, title="Which answer is better?", labels=LABELS, required=True),
            rg.TextQuestion(name=REASON, title="Why? (optional)", required=False),
        ],
        metadata=[rg.TermsMetadataProperty(name=n, visible_for_annotators=False) for n in ("purpose", "shown")],
        distribution=rg.TaskDistribution(min_submitted=overlap),
    )
    with _sdk_errors(client.api_url):
        rg.Dataset(name=name, workspace=workspace, settings=settings, client=client).create()


def _check_dataset(api: Api, dataset: dict[str, Any], overlap: int) -> None:
    fields = [f["name"] for f in api.call("GET", f"/datasets/{dataset['id']}/fields")["items"]]
    questions = {q["name"] for q in api.call("GET", f"/datasets/{dataset['id']}/questions")["items"]}
    where = f"dataset {dataset['name']!r} at {api.url}"
    if fields != [FIELD] or questions != {QUESTION, REASON}:
        raise ConfigError(
            f"it has the fields {fields} and questions {sorted(questions)}, so it is not ours",
            where=where,
            hint="give the run another name",
        )
    if dataset["distribution"]["min_submitted"] != overlap:
        raise ConfigError(
            f"it was made for an overlap of {dataset['distribution']['min_submitted']}, and {overlap} is asked for",
            where=where,
            hint="keep annotate.overlap, or give the run another name",
        )


def _record(task: Task) -> dict[str, Any]:
    return {
        "external_id": task.id,
        "fields": {FIELD: payload(task)},
        "metadata": {"purpose": task.purpose, "shown": ",".join(map(str, task.shown))},
    }


def _batches(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """At most RECORDS_A_CALL records and about BYTES_A_CALL bytes at once."""
    batch: list[dict[str, Any]] = []
    size = 0
    for record in records:
        length = sum(len(part) for part in record["fields"][FIELD].values())
        if batch and (len(batch) == RECORDS_A_CALL or size + length > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += length
    if batch:
        yield batch


def _shown(record: dict[str, Any]) -> list[int]:
    return [int(place) for place in record["metadata"]["shown"].split(",")]


def _answers(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record's responses that are somebody's last word."""
    return [a for a in record.get("responses") or [] if a["status"] in STATUS]


def _judgement(record: dict[str, Any], response: dict[str, Any], annotator: str) -> Judgement:
    """A discarded response may carry values that were filled in before: the person skipped, whatever they say."""
    task, values = record["external_id"], response["values"] or {}
    label: Any = (values.get(QUESTION) or {}).get("value")
    reason: Any = (values.get(REASON) or {}).get("value")
    if response["status"] == "submitted" and label not in LABELS:
        raise DataError(
            f"{annotator!r} submitted the unknown label {label!r}", where=f"task {task}", hint="correct it in Argilla"
        )
    return Judgement(
        id=judgement_id(task, annotator, 0),
        task_id=task,
        kind="pair",
        annotator=annotator,
        revision=0,
        outcome="skipped" if response["status"] == "discarded" else from_side(label, _shown(record)),
        reason=_storable(reason) if reason else None,
        time=_utc(response["updated_at"]),
    )


def _storable(text: str) -> str:
    """Lone surrogates and NUL, which files and databases refuse, as their escapes (\\ud800, \\x00)."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _utc(time: str) -> str:
    """The server's times are UTC, and it does not say so."""
    return time if time.endswith("Z") or "+" in time else f"{time}+00:00"
