"""Argilla as the annotation backend: one workspace per run, one dataset per round.

What leaves here is canonical: `annotation.questions` translates between canonical candidates and places on the screen,
and a record's hidden metadata say which candidate stood where.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from align.errors import ConfigError, DataError, ServiceError
from align.ids import content_id
from align.types import Judgement, Task, judgement_id
from annotation.argilla_api import Api, connect
from annotation.argilla_dataset import Dataset, ensure_dataset, question_ids
from annotation.backend import Answer, Progress, Submitted, progress_of
from annotation.form import Form
from annotation.page import FIELD, payload
from annotation.questions import from_screen, to_screen
from annotation.tasks import item_of

STATUS = {"submitted": "submitted", "discarded": "skipped"}
"""Argilla's response status → ours; drafts are nobody's answer yet."""

SUPPORTED = (2, 8)
"""Argilla's oldest major and minor version that has all we use."""

RECORDS_A_CALL, BYTES_A_CALL, ANSWERS_A_CALL = 100, 4_000_000, 100
RECORDS_A_PAGE = range(50, 501)
"""How many records are read at once: more and more while they are small, since Argilla counts to each page anew."""
KEPT = ("id", "external_id", "metadata", "responses")
"""What of a record is kept after reading: 50,000 of them must not fill the memory with texts that are at hand."""
SIMULATED = "Simulated annotator"
"""First name of users that are personas; a person's account is never used for one."""


def open_argilla(
    url: str,
    api_key: str,
    *,
    workspace: str,
    dataset: str,
    guidelines: str | None,
    overlap: int,
    form: Form = Form(),
    patience: float = 30.0,
    revive: Callable[[], bool] = lambda: False,
) -> "ArgillaBackend":
    """Connect as the owner and make the workspace and the dataset where they are missing.

    `form` is what the dataset asks, `overlap` how many submitted answers complete a task. Calls are repeated for up to
    `patience` seconds while the server is away; `revive` may start it again, and says whether it did. Raises ServiceError (no server, wrong key, another version) and
    ConfigError (guidelines too long; the dataset exists with another overlap or other questions).
    """
    api = connect(url.rstrip("/"), api_key, patience, SUPPORTED, revive)
    return ArgillaBackend(api, ensure_dataset(api, workspace, dataset, guidelines, overlap, form), overlap, form)


class ArgillaBackend:
    """One dataset. Judgements come out with canonical outcomes, revision 0 and the server's time.

    Records are read again only when `version` says that something changed, so that following costs a few small calls
    a time at any size.
    """

    def __init__(self, api: Api, dataset: Dataset, overlap: int, form: Form = Form()) -> None:
        self._api, self._overlap, self._form = api, overlap, form
        self._dataset, self._workspace = dataset["id"], dataset["workspace_id"]
        self._questions = question_ids(api, dataset) if form.suggest else {}
        self._read: tuple[str, list[dict[str, Any]]] | None = None
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
        for batch in _batches(self._record(t) for t in missing):
            self._api.call("PUT", f"/datasets/{self._dataset}/records/bulk", json={"items": batch})
        self._places.clear()
        return Submitted(added=len(missing), present=len(tasks) - len(missing))

    def version(self) -> str:
        """Changes with every answer, skip, change of mind, record, member and user. Four small calls, at any size."""
        dataset = self._api.call("GET", f"/datasets/{self._dataset}")
        records = self._api.call("GET", f"/datasets/{self._dataset}/progress")
        members = sorted(m["id"] for m in self._members())
        return content_id([dataset["last_activity_at"], records["total"], members, self._usernames()])

    def progress(self) -> Progress:
        records, names = self._records(), self._usernames()
        status = {r["external_id"]: {names[a["user_id"]]: STATUS[a["status"]] for a in _answers(r)} for r in records}
        return progress_of(status, self._overlap, {m["username"] for m in self._members()})

    def collect(self) -> list[Judgement]:
        records, names = self._records(), self._usernames()
        found = [self._judgement(r, a, names[a["user_id"]]) for r in records for a in _answers(r)]
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

    def admit_people(self, without: Collection[str] = ()) -> list[str]:
        """Let every person with an annotator's account on this server label here, `without` some of them by name;
        returns the names of the new ones."""
        members = {m["id"] for m in self._members()}
        people = [
            u
            for u in self._api.call("GET", "/users")["items"]
            if u["role"] == "annotator" and u["first_name"] != SIMULATED and u["username"] not in without
        ]
        new = [u for u in people if u["id"] not in members]
        for user in new:
            self._admit(user["id"])
        return sorted(user["username"] for user in new)

    def _admit(self, user_id: str) -> None:
        self._api.call("POST", f"/workspaces/{self._workspace}/users", json={"user_id": user_id}, conflict=True)

    def withdraw(self, annotators: Collection[str], tasks: Collection[str]) -> int:
        """Delete what `annotators` answered and let them label here no more, and delete `tasks` with all answers to
        them; returns how many answers went. A task that wants answers again is asked of others."""
        names, records = self._usernames(), self._records()
        answers = [(r, a) for r in records for a in r.get("responses") or []]
        alone = [a for r, a in answers if r["external_id"] not in tasks and names[a["user_id"]] in annotators]
        with_task = [a for r, a in answers if r["external_id"] in tasks]
        for answer in alone:
            self._api.call("DELETE", f"/responses/{answer['id']}")
        dead = [r["id"] for r in records if r["external_id"] in tasks]
        for start in range(0, len(dead), RECORDS_A_CALL):
            ids = ",".join(dead[start : start + RECORDS_A_CALL])
            self._api.call("DELETE", f"/datasets/{self._dataset}/records", ids=ids)
        for member in self._members():
            if member["username"] in annotators:
                self._api.call("DELETE", f"/workspaces/{self._workspace}/users/{member['id']}")
        self._read = None
        self._places.clear()
        return sum(a["status"] in STATUS for a in [*alone, *with_task])

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        if any(a.task_id not in self._places for a in answers):
            self._places = self._index()
        for start in range(0, len(answers), ANSWERS_A_CALL):
            items = [self._response(a) for a in answers[start : start + ANSWERS_A_CALL]]
            self._answer(items, api_key)

    def _answer(self, items: list[dict[str, Any]], api_key: str) -> None:
        """Added or replaced. Sent once more where one is refused: two tries of which the first still went on, its reply
        lost, may have been in each other's way."""
        for last in (False, True):
            reply = self._api.call("POST", "/me/responses/bulk", json={"items": items}, key=api_key)
            refused = [item["error"]["detail"] for item in reply["items"] if item["error"]]
            if refused and last:
                raise ServiceError(f"Argilla refused an answer: {refused[0]}", where=self._api.url)
            if not refused:
                return

    def _response(self, answer: Answer) -> dict[str, Any]:
        if answer.task_id not in self._places:
            raise DataError("the task is not on the server", where=f"task {answer.task_id}", hint="submit it first")
        record, shown = self._places[answer.task_id]
        values = to_screen(answer, shown, self._form)
        try:
            "".join(v["value"] for v in values.values() if isinstance(v["value"], str)).encode("utf-8")
        except UnicodeEncodeError:
            raise DataError("Argilla takes no text with a lone surrogate", where=f"task {answer.task_id}") from None
        status = "discarded" if answer.outcome == "skipped" else "submitted"
        return {"record_id": record, "status": status} | ({"values": values} if values else {})

    def _judgement(self, record: dict[str, Any], response: dict[str, Any], annotator: str) -> Judgement:
        task, skipped = record["external_id"], response["status"] == "discarded"
        said = from_screen(task, response["values"], _shown(record), self._form, skipped=skipped)
        return Judgement(
            id=judgement_id(task, annotator, 0),
            task_id=task,
            kind=self._form.kind,
            annotator=annotator,
            revision=0,
            outcome=said.outcome,
            strength=said.strength,
            flags=said.flags,
            edit=said.edit,
            reason=said.reason,
            time=_utc(response["updated_at"]),
            ranking=said.ranking,
            ratings=said.ratings,
        )

    def _check_task(self, task: Task) -> None:
        if task.kind != self._form.kind or len(task.texts) > self._form.answers:
            raise DataError(
                f"the task is of kind {task.kind} with {len(task.texts)} answers, and its dataset takes kind "
                f"{self._form.kind} with up to {self._form.answers}",
                where=f"task {task.id}",
            )
        if task.wanted != self._overlap:
            raise DataError(
                f"the task wants {task.wanted} answers, and its dataset {self._overlap}", where=f"task {task.id}"
            )

    def _record(self, task: Task) -> dict[str, Any]:
        """What leaves for the server; `expected` never does, and `suggested` only where the form suggests."""
        metadata = {
            "purpose": task.purpose,
            "shown": ",".join(map(str, task.shown)),
            "item": item_of(task),
            "repeat": task.repeat,
            "priority": task.priority,
        }
        record = {"external_id": task.id, "fields": {FIELD: payload(task, self._form)}, "metadata": metadata}
        if not (self._form.suggest and task.suggested):
            return record
        values = to_screen(Answer(task.id, task.suggested), task.shown, self._form)
        return record | {
            "suggestions": [{"question_id": self._questions[name], **value} for name, value in values.items()]
        }

    def _index(self) -> dict[str, tuple[str, list[int]]]:
        """Task id → (record id, order shown) of all records."""
        return {r["external_id"]: (r["id"], _shown(r)) for r in self._records()}

    def _records(self) -> list[dict[str, Any]]:
        """All records with all responses, without their texts. What changes while they are read changes the version
        too, and is seen the next time."""
        version = self.version()
        if self._read is None or self._read[0] != version:
            self._read = version, self._read_records()
        return self._read[1]

    def _read_records(self) -> list[dict[str, Any]]:
        """Argilla pages by insertion time, which batches share, so a page may repeat a record and miss another: that
        is seen by counting, and read again."""
        for _ in range(3):
            found: dict[str, dict[str, Any]] = {}
            total, offset, limit = 1, 0, RECORDS_A_PAGE.start
            while offset < total:
                reply = self._api.call(
                    "GET",
                    f"/datasets/{self._dataset}/records",
                    include="responses",
                    offset=offset,
                    limit=limit,
                )
                total, offset = reply["total"], offset + limit
                size = sum(_size(record) for record in reply["items"])
                limit = min(2 * limit, RECORDS_A_PAGE.stop - 1) if size < BYTES_A_CALL / 2 else RECORDS_A_PAGE.start
                found.update((record["id"], {key: record.get(key) for key in KEPT}) for record in reply["items"])
            if len(found) == total:
                return list(found.values())
        raise ServiceError(
            f"Argilla says that there are {total} records and lists {len(found)}",
            where=self._api.url,
            hint="run the same command again",
        )

    def _members(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._api.call("GET", f"/workspaces/{self._workspace}/users")["items"]
        return found

    def _usernames(self) -> dict[str, str]:
        return {user["id"]: user["username"] for user in self._api.call("GET", "/users")["items"]}

    def _user(self, name: str) -> dict[str, Any] | None:
        return next((u for u in self._api.call("GET", "/users")["items"] if u["username"] == name), None)


def _batches(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """At most RECORDS_A_CALL records and about BYTES_A_CALL bytes at once."""
    batch: list[dict[str, Any]] = []
    size = 0
    for record in records:
        length = _size(record)
        if batch and (len(batch) == RECORDS_A_CALL or size + length > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += length
    if batch:
        yield batch


def _size(record: dict[str, Any]) -> int:
    """About how many bytes a record has on its way."""
    return sum(len(part) for part in record["fields"][FIELD].values())


def _shown(record: dict[str, Any]) -> list[int]:
    return [int(place) for place in record["metadata"]["shown"].split(",")]


def _answers(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record's responses that are somebody's last word."""
    return [a for a in record.get("responses") or [] if a["status"] in STATUS]


def _utc(time: str) -> str:
    """The server's times are UTC, and it does not say so."""
    return time if time.endswith("Z") or "+" in time else f"{time}+00:00"
