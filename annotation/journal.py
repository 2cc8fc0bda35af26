"""The journal: what people said and decided, append-only and fsynced, one JSON object a line.

    {"type": "judgement", …}            a judgement or a later revision of one
    {"type": "person", "id", "name"}    what somebody is called from here on
    {"type": "person", …, "was": [n]}   and whose the lines are that have the name `n` in place of an id
    {"type": "tombstone", "judgement"}  a judgement that is forgotten
    {"type": "tombstone", "annotator"}  all that this annotator said is forgotten, and whatever they say later
    {"type": "tombstone", "task"}       all that was said about this task, and whatever will be
    {"type": "closed", "round", "tasks", "reason"} and {"type": "reopened", "round", "tasks"}

People are known by the server's user id, simulated annotators by their name in the recipe; what people are called may
change. A journal of an earlier version has names where ids stand now: as soon as the server has been asked whose they
are, a line says so, and they count as that person's.

A closing freezes what stands before it: what is said later is kept, and counts once a person reopens the labelling.

Of what is forgotten the words are erased: a judgement's line becomes a tombstone of the same length. Nothing else in
the file ever changes.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from align.ids import content_id
from align.types import Judgement, judgement_id
from annotation.journal_io import BLOCK, JUDGEMENT, Line, Place, blot, held, lines, write


@dataclass(frozen=True, slots=True)
class Tombstones:
    """What is forgotten: judgements by id, and all judgements of some annotators and about some tasks.

    An annotator stands there under the id and under every name that old lines have for it.
    """

    judgements: frozenset[str] = frozenset()
    annotators: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()

    def hide(self, judgement: str, annotator: str, task: str) -> bool:
        """Whether the judgement with this id, by this annotator about this task, is forgotten."""
        return judgement in self.judgements or annotator in self.annotators or task in self.tasks

    def __bool__(self) -> bool:
        return bool(self.judgements or self.annotators or self.tasks)


class Entry(NamedTuple):
    """A judgement as it is written, where its line begins, and the revision before it."""

    at: int
    judgement: Judgement
    before: "Entry | None"


class Journal:
    """The state that the journal's lines add up to, as far as they are read: `read_on` takes in what came since.

    With `tasks` only what was said about these is kept, so that the memory does not grow with the journal; with `until`
    no line that begins at that byte or behind it counts.
    """

    def __init__(self, path: Path, tasks: Collection[str] | None = None, until: int | None = None) -> None:
        self._path, self._tasks, self._until = path, None if tasks is None else frozenset(tasks), until
        self._clear()

    def _clear(self) -> None:
        self._place = Place()
        self.closed: dict[str, str] = {}
        """Content id of a round's tasks → why their labelling was closed. Other tasks in the same round start open."""
        self.names: dict[str, str] = {}
        """Annotator → what that person is called now."""
        self._closed_at: dict[str, int] = {}
        self._called: dict[str, set[str]] = {}
        self._owners: dict[str, tuple[str, int]] = {}
        self._said: dict[tuple[str, str], Entry] = {}
        self._forgotten: dict[str, set[str]] = {"judgement": set(), "annotator": set(), "task": set()}

    def read_on(self) -> Self:
        """Read what was written since. Raises DataError for a damaged line anywhere but at the torn end."""
        if not self._path.is_file():
            return self
        with self._path.open("rb", buffering=BLOCK) as file:
            status = os.fstat(file.fileno())
            if self._place.file not in (0, status.st_ino) or status.st_size < self._place.length:
                self._clear()  # another file took its place
            self._place.file = status.st_ino
            for line in lines(file, self._path, self._place, self._until, self._tasks):
                self._take(line)
        return self

    def _take(self, line: Line) -> None:
        event = line.event
        match line.type:
            case "judgement":
                if self._tasks is None or event["task_id"] in self._tasks:
                    judgement = Judgement(**event)
                    key = judgement.task_id, self.identity(judgement.annotator)
                    self._said[key] = Entry(line.at, judgement, self._said.get(key))
            case "person":
                self.names[event["id"]] = event["name"]
                self._called.setdefault(event["name"], set()).add(event["id"])
                for name in event.get("was", ()):
                    self._owners[name] = event["id"], line.at
                    self._rewrite(name, event["id"])
            case "tombstone":
                for what, name in event.items():
                    self._forgotten[what].add(name)
            case "closed":
                self.closed[event["tasks"]] = event["reason"]
                self._closed_at[event["tasks"]] = line.at
            case "reopened":
                self.closed.pop(event["tasks"], None)
                self._closed_at.pop(event["tasks"], None)

    def _rewrite(self, name: str, owner: str) -> None:
        """Lines that name somebody by `name` are `owner`'s; of two about one task the later one is the newer."""
        for key in [key for key in self._said if key[1] == name]:
            chain = [*_chain(self._said.pop(key)), *_chain(self._said.pop((key[0], owner), None))]
            joined = None
            for said in sorted(chain, key=lambda said: said.at):
                joined = Entry(said.at, said.judgement, joined)
            assert joined is not None
            self._said[key[0], owner] = joined

    @property
    def length(self) -> int:
        """Bytes that are read."""
        return self._place.length

    @property
    def latest(self) -> dict[tuple[str, str], Judgement]:
        """(task id, annotator) → the newest revision."""
        return {key: self._as_of(said, None) or said.judgement for key, said in self._said.items()}

    @property
    def forgotten(self) -> Tombstones:
        judgements, tasks = (frozenset(self._forgotten[what]) for what in ("judgement", "task"))
        return Tombstones(judgements, self._alike(self._forgotten["annotator"]), tasks)

    def meet(self, collected: Collection[Judgement], people: Mapping[str, str]) -> Self:
        """Take in who people are, as `record` would write it, where nothing is to be written."""
        for event in _introductions(self, collected, people):
            self._take(Line(self.length, "person", event))
        return self

    def rename(self, people: Mapping[str, str]) -> Self:
        """Take in what those whose ids are known are called by now, where nothing is to be written."""
        for who in self.everybody().keys() & people.keys():
            self._take(Line(self.length, "person", {"id": who, "name": people[who]}))
        return self

    def identity(self, annotator: str) -> str:
        """Whoever a line, or a snapshot made of it, names `annotator`."""
        return self._owners[annotator][0] if annotator in self._owners else annotator

    def called(self, annotator: str) -> str:
        """What `annotator` is called now; with the beginning of the id where others are called the same."""
        identity = self.identity(annotator)
        name = self.names.get(identity, identity)
        alike = Counter(self.names.values())[name] + (name in self.strangers)
        return name if name == identity or alike < 2 else f"{name} ({identity[:8]})"

    def everybody(self) -> dict[str, str]:
        """All who have said something here, or were forgotten: annotator → what that person is called now."""
        return {
            who: self.called(who) for who in map(self.identity, self._place.annotators | self._forgotten["annotator"])
        }

    def find(self, text: str) -> list[str]:
        """The annotators whose id or present name `text` is; where there is none, those who once had that name."""
        everybody = self.everybody()
        now = [who for who, name in everybody.items() if text in (who, name, self.names.get(who))]
        once = everybody.keys() & (self._called.get(text, set()) | {self.identity(text)})
        return sorted(now or once)

    def naming(self, annotator: str) -> Tombstones:
        """What is forgotten with `annotator`: all that the id, or a name that old lines have for it, stands in."""
        return Tombstones(annotators=self._alike({annotator}))

    def _alike(self, annotators: set[str]) -> frozenset[str]:
        found = annotators | {self.identity(name) for name in annotators}
        return frozenset(found | {name for name, (owner, _) in self._owners.items() if owner in found})

    @property
    def strangers(self) -> set[str]:
        """Annotators of whom nothing is known but what their lines, or tombstones, call them."""
        return (self._place.annotators | self._forgotten["annotator"]) - self.names.keys() - self._owners.keys()

    def judgements(self, tasks: Iterable[str], labelling: str | None = None) -> list[Judgement]:
        """The valid judgements about `tasks`, by id; where `labelling`, the content id of these tasks' folder, is
        closed, those of the moment of its closing."""
        wanted, at = set(tasks), self._closed_at.get(labelling or "")
        found = (self._as_of(said, at) for (task, _), said in self._said.items() if task in wanted)
        return sorted(self.valid(j for j in found if j is not None), key=lambda j: j.id)

    def late(self, tasks: Iterable[str], labelling: str) -> list[Judgement]:
        """What was said otherwise, or for the first time, after `labelling` was closed."""
        counted = {self._key(j): j for j in self.judgements(tasks, labelling)}
        return [j for j in self.judgements(tasks) if differs(counted.get(self._key(j)), j)]

    def valid(self, judgements: Iterable[Judgement]) -> list[Judgement]:
        """Those of `judgements` that are not forgotten."""
        forgotten = self.forgotten
        return [j for j in judgements if not forgotten.hide(j.id, j.annotator, j.task_id)]

    def of_strangers(self) -> list[Judgement]:
        """All revisions of what strangers said: whose it is is still to be found out."""
        strangers = self.strangers
        return [s.judgement for (_, who), last in self._said.items() if who in strangers for s in _chain(last)]

    def _key(self, judgement: Judgement) -> tuple[str, str]:
        return judgement.task_id, self.identity(judgement.annotator)

    def _as_of(self, said: Entry | None, at: int | None) -> Judgement | None:
        """The last revision before byte `at`, under the name that its annotator had for us then."""
        while said is not None and at is not None and said.at >= at:
            said = said.before
        if said is None:
            return None
        owner, since = self._owners.get(said.judgement.annotator, (said.judgement.annotator, -1))
        known = at is None or since < at
        return replace(said.judgement, annotator=owner) if known and since >= 0 else said.judgement


def read_journal(path: Path, tasks: Collection[str] | None = None, until: int | None = None) -> Journal:
    """The journal as it is now; see `Journal`. Raises DataError for a damaged line anywhere but at the torn end."""
    return Journal(path, tasks, until).read_on()


def record(
    path: Path,
    collected: Collection[Judgement],
    people: Mapping[str, str] | None = None,
    journal: Journal | None = None,
) -> list[Judgement]:
    """Append what is new or changed among `collected` (revision 0 from the backend) and return those lines.

    A changed mind becomes the next revision; what the journal already holds is not written again, and what an annotator
    says who is forgotten, or anybody about a task that is, is not written at all. `people` are those whom the server
    knows, by annotator: what they are called is written where it changed. `journal` saves reading all of it again.
    """
    with held(path) as file:
        known = journal or Journal(path, {j.task_id for j in collected})
        write(path, file, _introductions(known.read_on(), collected, people or {}))
        latest = dict(known.read_on().latest)
        fresh = []
        for judgement in known.valid(collected):
            before = latest.get((judgement.task_id, judgement.annotator))
            if differs(before, judgement):
                revision = 0 if before is None else before.revision + 1
                identity = judgement_id(judgement.task_id, judgement.annotator, revision)
                judgement = replace(judgement, id=identity, revision=revision)
                latest[judgement.task_id, judgement.annotator] = judgement
                fresh.append(judgement)
        write(path, file, [{"type": JUDGEMENT, **asdict(j)} for j in fresh])
    return fresh


def introduce(path: Path, collected: Collection[Judgement], people: Mapping[str, str]) -> None:
    """Write who people are and what they are called now, as `record` does, and nothing of what they said."""
    with held(path) as file:
        known = Journal(path, {j.task_id for j in collected}).read_on()
        write(path, file, _introductions(known, collected, people))


def _introductions(
    journal: Journal, collected: Collection[Judgement], people: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Lines that say who people are: whoever said something and is called otherwise than before, and whose the lines
    are that have a name in place of an id."""
    was = _owners(journal, collected, people)
    concerned = {j.annotator for j in journal.valid(collected)} | journal.names.keys() | was.keys()
    return [
        {"type": "person", "id": who, "name": people[who], **({"was": sorted(was[who])} if who in was else {})}
        for who in sorted(concerned & people.keys())
        if who in was or people[who] != journal.names.get(who, who)
    ]


def _owners(journal: Journal, collected: Collection[Judgement], people: Mapping[str, str]) -> dict[str, set[str]]:
    """Annotator → names under which earlier versions wrote down what that person said.

    The same answer of the same moment tells, also where the person was renamed since; where no answer does, the name.
    """
    strangers = journal.strangers - people.keys()
    if not strangers:
        return {}
    given = {_moment(judgement): judgement.annotator for judgement in collected}
    alike: dict[str, set[str]] = {name: set() for name in strangers}
    times = Counter(_moment(judgement) for judgement in journal.of_strangers())
    for judgement in journal.of_strangers():
        moment = _moment(judgement)
        if judgement.annotator in strangers and moment in given and times[moment] == 1:
            alike[judgement.annotator].add(given[moment])
    found = {name: next(iter(who)) for name, who in alike.items() if len(who) == 1}
    told = set(found.values())
    found |= {name: who for who, name in people.items() if name in strangers - found.keys() and who not in told}
    owners: dict[str, set[str]] = {}
    for name, who in found.items():
        owners.setdefault(who, set()).add(name)
    return owners


def _moment(judgement: Judgement) -> str:
    """What was said about which task at which time, whoever said it."""
    return content_id([judgement.task_id, judgement.time, *_words(judgement)])


def forget(path: Path, what: str, names: Iterable[str]) -> None:
    """Write tombstones for `names`: judgements, annotators or tasks, as `what` says in the singular."""
    known: frozenset[str] = getattr(read_journal(path, ()).forgotten, f"{what}s")
    append(path, [{"type": "tombstone", what: name} for name in names if name not in known])


def erase(path: Path, keep: Collection[str] = ()) -> int:
    """Erase the words of all that is forgotten, but of annotators to `keep`; returns how many judgements that were.

    Whom an old line names is found out by what that line says, so one whom no server has been asked about must be kept.
    """
    forgotten = read_journal(path, ()).forgotten
    kept = frozenset(keep)
    return blot(path, lambda j: j["annotator"] not in kept and forgotten.hide(j["id"], j["annotator"], j["task_id"]))


def close(path: Path, round: int, tasks: str, reason: str) -> None:
    """Close the labelling of `tasks` (the output id of the stage that made them)."""
    append(path, [{"type": "closed", "round": round, "tasks": tasks, "reason": reason}])


def reopen(path: Path, round: int, tasks: str) -> None:
    """Take a closing back: more labels may come, and the next snapshot is another one."""
    append(path, [{"type": "reopened", "round": round, "tasks": tasks}])


def append(path: Path, events: list[dict[str, Any]]) -> None:
    """Write whole lines and wait until the disk has them."""
    if events:
        with held(path) as file:
            write(path, file, events)


def said(judgement: Judgement) -> str:
    """Content id of what the person said: everything but revision and times."""
    return content_id([judgement.task_id, judgement.annotator, *_words(judgement)])


def differs(before: Judgement | None, judgement: Judgement) -> bool:
    """Whether this annotator says something new about the task, or for the first time."""
    return before is None or _words(before) != _words(judgement)


def _words(judgement: Judgement) -> list[Any]:
    """What was said, apart from who said it about what."""
    return [
        judgement.outcome,
        judgement.strength,
        judgement.flags,
        judgement.edit,
        judgement.reason,
        judgement.ranking,
        judgement.ratings,
    ]


def _chain(said: Entry | None) -> list[Entry]:
    """A judgement's revisions, the newest first."""
    found = []
    while said is not None:
        found.append(said)
        said = said.before
    return found
