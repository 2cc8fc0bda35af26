"""Which prompts a round asks and an evaluation uses; and who hears what while people label."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.recipe import Annotate
from align.data.prompts import held_out_prompts, prompts_of_round
from align.errors import ServiceError
from align.labelling import session as labelling
from align.labelling.session import follow
from align.types import Judgement
from annotation.backend import Answer, Progress, Submitted, progress_of
from annotation.journal import forget
from tests.labelling import judge, make_prompt, make_task, session_of_tasks

TRAIN = [make_prompt(f"train {n}") for n in range(7)]
TEST = [make_prompt(f"test {n}", split="test") for n in range(5)]


@given(count=st.integers(1, 9), seed=st.integers(0, 3))
def test_no_prompt_comes_twice_before_all_came_once(count: int, seed: int) -> None:
    rounds = [prompts_of_round([*TRAIN, *TEST], round=n, count=count, seed=seed) for n in range(1, 8)]
    assert {len(drawn) for drawn in rounds} == {min(count, len(TRAIN))}
    if count <= len(TRAIN):
        line = [p.id for drawn in rounds for p in drawn]
        whole = [line[i : i + len(TRAIN)] for i in range(0, len(line) - len(TRAIN) + 1, len(TRAIN))]
        assert all(set(turn) == {p.id for p in TRAIN} for turn in whole)


def test_the_order_depends_on_the_seed_and_not_on_the_file() -> None:
    first = prompts_of_round(TRAIN, round=1, count=7, seed=0)
    assert prompts_of_round(TRAIN[::-1], round=1, count=7, seed=0) == first
    assert prompts_of_round(TRAIN, round=1, count=7, seed=1) != first


@given(order=st.permutations([*TRAIN, *TEST]))
def test_the_same_prompts_are_held_out_in_any_order(order: list) -> None:  # type: ignore[type-arg]
    assert held_out_prompts(order, 3) == held_out_prompts(TEST, 9)[:3]
    assert sorted(p.id for p in held_out_prompts(order, 9)) == sorted(p.id for p in TEST)


class Server:
    """A backend that is at the next of `states` (version, answers of two) each time it is asked; None: it is away."""

    url = "http://127.0.0.1:1/dataset/x"

    def __init__(self, states: list[tuple[str, int] | None]) -> None:
        self.states, self.at, self.read, self.opened = states, ("", 0), 0, 0

    def open(self, session: labelling.Session, own: object = None) -> "tuple[Server, Submitted]":
        self.opened += 1
        return self, Submitted(0, len(session.tasks))

    def admit(self, without: object = ()) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing is shown anyway."""

    def people(self) -> dict[str, str]:
        return {name: name for name in ("ann", "bob")}

    def version(self) -> str:
        state = self.states.pop(0)
        if state is None:
            raise ServiceError("the server is away")
        self.at = state
        return state[0]

    def collect(self) -> list[Judgement]:
        self.read += 1
        return [judge("t", name, "a") for name in ("ann", "bob")[: self.at[1]]]

    def progress(self) -> Progress:
        return progress_of({"t": dict.fromkeys(("ann", "bob")[: self.at[1]], "submitted")}, 2, {"ann", "bob"})


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> labelling.Session:
    monkeypatch.setattr(labelling, "POLL_SECONDS", 0.0)
    (tmp_path / "mine").mkdir()
    return session_of_tasks([make_task("t")], tmp_path / "mine", Annotate(), round=2, seed=0)


def test_who_follows_hears_each_change_once_and_unchanged_answers_are_not_read_again(
    session: labelling.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server([("1", 0), ("1", 0), ("2", 0), ("3", 1), ("3", 1), ("4", 2)])
    monkeypatch.setattr(labelling, "offer", server.open)
    heard: list[str] = []
    assert {j.annotator for j in follow(session, lambda waiting: heard.append(str(waiting)))} == {"ann", "bob"}
    assert heard == [f"{n} of 2 answers are in; label at http://127.0.0.1:1/dataset/x" for n in (0, 1)]
    # once at each change, and before and behind the closing, when somebody may have answered
    assert (server.read, server.opened, server.states) == (6, 1, [])
    assert labelling.closed(session) == "1 of 1 tasks have their answers"
    assert (session.workspace, session.journal, session.round) == ("mine", tmp_path / "mine" / "journal.jsonl", 2)
    assert follow(session, lambda waiting: heard.append("again")) and len(heard) == 2


def test_a_server_that_comes_back_is_followed_on_and_one_that_does_not_is_an_error(
    session: labelling.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server([("1", 1), None, ("1", 1), None, None])
    monkeypatch.setattr(labelling, "offer", server.open)
    heard: list[str] = []
    with pytest.raises(ServiceError, match="the server is away"):
        follow(session, lambda waiting: heard.append(str(waiting)))
    assert len(heard) == 1 and server.opened == 3 and labelling.closed(session) is None


def test_a_labelling_without_tasks_is_closed_at_once(
    session: labelling.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "offer", lambda session, own=None: pytest.fail("nobody needs a server"))
    nothing = replace(session, tasks=[], tasks_id="none")
    assert follow(nothing, lambda waiting: None) == [] and labelling.closed(nothing) == "there is nothing to ask"


class Simulated(Server):
    """A backend with simulated annotators, who answer in memory."""

    def __init__(self) -> None:
        super().__init__([])
        self.said: list[tuple[str, str]] = []

    def version(self) -> str:
        return str(len(self.said))

    def ensure_annotator(self, name: str) -> str:
        return name

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        self.said += [(api_key, a.task_id) for a in answers]

    def collect(self) -> list[Judgement]:
        return [judge(task, name, "a") for name, task in self.said]

    def progress(self) -> Progress:
        return progress_of({task: {name: "submitted"} for name, task in self.said}, 1, set())


def test_forgotten_personas_and_tasks_take_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "score.py").write_text("def score(messages, answer):\n    return float(len(answer))\n")
    by = {"type": "personas", "utility": f"{tmp_path}/score.py:score", "personas": [{"name": "ann"}, {"name": "bob"}]}
    tasks = [make_task(name, prompt=name) for name in ("t", "u", "v", "w", "x", "y")]
    session = session_of_tasks(tasks, tmp_path, Annotate.model_validate({"by": by}), round=1, seed=0)
    forget(session.journal, "annotator", ["bob"])
    forget(session.journal, "task", ["u"])
    server = Simulated()
    monkeypatch.setattr(labelling, "offer", server.open)
    assert len(follow(session, lambda waiting: pytest.fail("nothing is waited for"))) == 5
    assert sorted(server.said) == [("ann", name) for name in ("t", "v", "w", "x", "y")]
