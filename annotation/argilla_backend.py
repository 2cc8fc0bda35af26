"""Argilla as the annotation backend: one workspace per run, one dataset per round.

What leaves here is canonical: `annotation.questions` translates between canonical candidates and places on the screen.
Which candidate stood where is known from the tasks, never from the server: whoever owns it may change a record, so one
that shows something else than its task is left out, by name, and so is one of nobody's tasks. People are known by their
user's id, which no renaming changes.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from align.errors import ConfigError, DataError, ServiceError
from align.ids import content_id
from align.types import Dropped, Judgement, Task, judgement_id
from annotation.argilla_api import Api, connect
from annotation.argilla_dataset import (
    DONE,
    Dataset,
    answered_since,
    close,
    close_others,
    ensure_dataset,
    others,
    question_ids,
)
from annotation.argilla_records import Record, batches, read_records
from annotation.backend import Answer, Progress, Submitted, progress_of
from annotation.form import Form
from annotation.page import FIELD, TURNED, payload, seen_otherwise
from annotation.questions import from_screen, to_screen
from annotation.tasks import item_of

STATUS = {"submitted": "submitted", "discarded": "skipped"}
"""Argilla's response status → ours; drafts are nobody's answer yet."""

SUPPORTED = (2, 8)
"""Argilla's oldest major and minor version that has all we use."""

PATIENCE = 30.0
"""Seconds for a server that is away for a moment."""

ANSWERS_A_CALL = 100
SIMULATED = "Simulated annotator"
"""First name of users that are personas; a person's account is never used for one. The last name is the persona's."""
FOREIGN = "the record is of no task that was asked here"
GONE = "the task is not on the server any more"


class Known(NamedTuple):
    """All that was read while the server had one version."""

    version: str
    records: list[Record]
    users: dict[str, dict[str, Any]]

    def annotator(self, user_id: str) -> str:
        return annotator_of(self.users[user_id]) if user_id in self.users else user_id


def open_argilla(
    url: str,
    api_key: str,
    *,
    workspace: str,
    dataset: str,
    guidelines: str | None,
    overlap: int,
    form: Form = Form(),
    title: str = "",
    tasks: Sequence[Task] = (),
    without: Collection[str] = (),
    patience: float = PATIENCE,
    revive: Callable[[], bool] = lambda: False,
) -> "ArgillaBackend":
    """Connect as the owner and make the workspace and the dataset where they are missing.

    `dataset` is what it is for us and `title` what people read (that name where it is empty). `form` is what the
    dataset asks, `overlap` how many submitted answers complete a task, `tasks` what was submitted to it before,
    `without` the ids of tasks that are forgotten, which it may still hold. Calls are repeated for up to `patience`
    seconds while the server is away; `revive` may start it again, and says whether it did. Raises ServiceError (no
    server, wrong key, another version) and ConfigError (guidelines too long; the dataset exists with another overlap or
    other questions).
    """
    api = connect(url.rstrip("/"), api_key, patience, SUPPORTED, revive)
    made = ensure_dataset(api, workspace, dataset, guidelines, overlap, form, title)
    return ArgillaBackend(api, made, overlap, form, tasks, without)


class ArgillaBackend:
    """One dataset. Judgements come out with canonical outcomes, revision 0 and the server's time.

    Records are read again only when `version` says that something changed, so that following costs a few small calls
    a time at any size.
    """

    def __init__(
        self,
        api: Api,
        dataset: Dataset,
        overlap: int,
        form: Form = Form(),
        tasks: Sequence[Task] = (),
        without: Collection[str] = (),
    ) -> None:
        self._api, self._overlap, self._form = api, overlap, form
        self._made, self._dataset, self._workspace = dataset, dataset["id"], dataset["workspace_id"]
        self._questions = question_ids(api, dataset) if form.suggest else {}
        self._tasks, self._without = {task.id: task for task in tasks}, frozenset(without)
        self._read: Known | None = None
        self._sorted: tuple[Known, list[Judgement], list[Dropped]] | None = None
        self._places: dict[str, str] = {}
        self._shut: set[str] = set()

    @property
    def url(self) -> str:
        return f"{self._api.url}/dataset/{self._dataset}/annotation-mode"

    def submit(self, tasks: Sequence[Task]) -> Submitted:
        for task in tasks:
            self._check_task(task)
        self._tasks |= {task.id: task for task in tasks}
        self._read = None  # what was a stranger's record may be ours now
        present = {record.task: record.wrong for record in self._known().records}
        there = [task for task in tasks if task.id in present]
        if there and all(present[task.id] == TURNED for task in there):
            raise DataError(
                "the task is on the server with its answers in another order",
                where=f"task {there[0].id}",
                hint="use the seed it was made with, or another run name",
            )
        missing = [t for t in tasks if t.id not in present]
        for batch in batches(self._record(t) for t in missing):
            self._api.call("PUT", f"/datasets/{self._dataset}/records/bulk", json={"items": batch})
        self._places.clear()
        return Submitted(added=len(missing), present=len(there))

    def version(self) -> str:
        """Changes with every answer, skip, change of mind, record, member and user. Four small calls, at any size."""
        return self._version(self._users())

    def _version(self, users: dict[str, dict[str, Any]]) -> str:
        dataset = self._api.call("GET", f"/datasets/{self._dataset}")
        records = self._api.call("GET", f"/datasets/{self._dataset}/progress")
        members = sorted(m["id"] for m in self._members())
        names = {identity: user["username"] for identity, user in users.items()}
        return content_id([dataset["last_activity_at"], records["total"], members, names])

    def progress(self) -> Progress:
        known, judgements, dropped = self._sorted_out()
        status: dict[str, dict[str, str]] = {r.task: {} for r in known.records if r.task and not r.wrong}
        for judgement in judgements:
            skipped = judgement.outcome == "skipped"
            status[judgement.task_id][judgement.annotator] = "skipped" if skipped else "submitted"
        for record in known.records:
            if record.task in status:
                drafts = [known.annotator(r["user_id"]) for r in record.responses if r["status"] == "draft"]
                status[record.task] |= dict.fromkeys(drafts, "draft")
        members = {known.annotator(member["id"]) for member in self._members()}
        return progress_of(status, self._overlap, members, dropped)

    def collect(self) -> list[Judgement]:
        return sorted(self._sorted_out()[1], key=lambda j: j.id)

    def people(self) -> dict[str, str]:
        return {annotator_of(user): user["username"] for user in self._known().users.values()}

    def ensure_annotator(self, name: str) -> str:
        """Make the simulated annotator `name` (random password), let it label here, and return its API key.

        Raises ConfigError where a person has that user name.
        """
        user = self._persona(name)
        if user is None:
            persona = {
                "username": name,
                "first_name": SIMULATED,
                "last_name": name,
                "role": "annotator",
                "password": secrets.token_urlsafe(32),
            }
            self._api.call("POST", "/users", json=persona, conflict=True)
            user = self._persona(name)
        if user is None:
            raise ConfigError(
                f"the user {name!r} of this server is a person, or another simulated annotator that was renamed",
                where="annotate.by.personas",
                hint="give the persona another name",
            )
        self._admit(user["id"])
        return str(user["api_key"])

    def admit(self, without: Collection[str] = ()) -> list[str]:
        """Let every person with an annotator's account on this server label here, `without` some of them, by annotator
        or by name; returns what the new ones are called."""
        members = {m["id"] for m in self._members()}
        new = [
            user
            for user in self._users().values()
            if user["role"] == "annotator"
            and user["first_name"] != SIMULATED
            and user["id"] not in members
            and not {user["id"], user["username"]} & set(without)
        ]
        for user in new:
            self._admit(user["id"])
        return sorted(user["username"] for user in new)

    def _admit(self, user_id: str) -> None:
        self._api.call("POST", f"/workspaces/{self._workspace}/users", json={"user_id": user_id}, conflict=True)

    def close(self) -> None:
        """Close the dataset for annotators: it is not listed any more and has no next record. An answer that somebody
        has before them is still taken. On an Argilla that is not ours its guidelines alone say so."""
        close(self._api, self._made)

    def close_others(self, family: str) -> None:
        """Close the datasets of a run's other labellings for annotators. Of those whose names begin with `family`,
        whose place this one took, no answer is taken either."""
        self._shut |= set(close_others(self._api, self._made, family))

    def given_in_others(self) -> dict[str, list[tuple[str, str, str]]]:
        """What another dataset is called → (task, annotator, time) of each answer and skip in it; none without. Those
        in which nobody answered since they were closed as done are left out."""
        known = self._known()
        found = {
            other["name"]: [
                (record.task, known.annotator(response["user_id"]), _utc(response["updated_at"]))
                for record in read_records(self._api, other["id"], lambda record: None)
                for response in record.responses
                if record.task and response["status"] in STATUS
            ]
            for other in others(self._api, self._made)
            if other["guidelines"] != DONE or other["id"] in self._shut or answered_since(other)
        }
        return {name: answers for name, answers in found.items() if answers}

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        if any(a.task_id not in self._places for a in answers):
            self._places = {r.task: r.id for r in self._known().records if r.task and not r.wrong}
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
        values = to_screen(answer, self._tasks[answer.task_id].shown, self._form)
        try:
            "".join(v["value"] for v in values.values() if isinstance(v["value"], str)).encode("utf-8")
        except UnicodeEncodeError:
            raise DataError("Argilla takes no text with a lone surrogate", where=f"task {answer.task_id}") from None
        status = "discarded" if answer.outcome == "skipped" else "submitted"
        return {"record_id": self._places[answer.task_id], "status": status} | ({"values": values} if values else {})

    def _judgement(self, task: str, response: dict[str, Any], annotator: str) -> Judgement:
        skipped = response["status"] == "discarded"
        said = from_screen(task, response["values"], self._tasks[task].shown, self._form, skipped=skipped)
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

    def _sorted_out(self) -> tuple[Known, list[Judgement], list[Dropped]]:
        """What was read; the judgements on records that are as they were left; and what is left out."""
        known = self._known()
        if self._sorted is not None and self._sorted[0] is known:
            return self._sorted
        judgements: list[Judgement] = []
        dropped = [
            Dropped("record", r.task or r.id, r.wrong) for r in known.records if r.wrong and r.task not in self._without
        ]
        gone = self._tasks.keys() - {record.task for record in known.records}
        dropped += [Dropped("task", name, GONE) for name in gone]
        for record in known.records:
            if record.wrong or record.task is None:
                continue
            for response in record.responses:
                annotator = known.annotator(response["user_id"])
                try:
                    if response["status"] in STATUS:
                        judgements.append(self._judgement(record.task, response, annotator))
                except DataError as error:
                    dropped.append(Dropped("answer", record.task, error.what))
        self._sorted = known, judgements, sorted(dropped, key=lambda row: (row.what, row.where))
        return self._sorted

    def _known(self) -> Known:
        """All records with all responses, without their texts. What changes while they are read changes the version
        too, and is seen the next time."""
        users = self._users()
        version = self._version(users)
        if self._read is None or self._read.version != version:
            records = read_records(self._api, self._dataset, self._wrong)
            self._read = Known(version, records, users)
        return self._read

    def _wrong(self, record: dict[str, Any]) -> str | None:
        task = self._tasks.get(record["external_id"] or "")
        return FOREIGN if task is None else seen_otherwise(record["fields"], task, self._form)

    def _members(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._api.call("GET", f"/workspaces/{self._workspace}/users")["items"]
        return found

    def _users(self) -> dict[str, dict[str, Any]]:
        """The server's users by their ids."""
        return {user["id"]: user for user in self._api.call("GET", "/users")["items"]}

    def _persona(self, name: str) -> dict[str, Any] | None:
        return next((u for u in self._users().values() if _simulated(u) and annotator_of(u) == name), None)


def _simulated(user: dict[str, Any]) -> bool:
    return user["first_name"] == SIMULATED and user["role"] == "annotator"


def annotator_of(user: dict[str, Any]) -> str:
    """Who an answer is by: a person's id; a persona's name in the recipe, so that a run with the same seed comes out
    the same on every server. (Personas of earlier versions have no last name.)"""
    return str((user["last_name"] or user["username"]) if _simulated(user) else user["id"])


def _utc(time: str) -> str:
    """The server's times are UTC, and it does not say so."""
    return time if time.endswith("Z") or "+" in time else f"{time}+00:00"
