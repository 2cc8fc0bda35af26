"""What the gate would say now, of a run or of a folder with two files: by all judgements in the journal so far."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from align.config.gate import Gate
from align.config.recipe import PeopleJudge
from align.errors import ConfigError
from align.evaluation.blind import comparisons
from align.evaluation.compare import SAMPLES
from align.evaluation.gate import Comparisons, Decision, decide, sentence
from align.evaluation.powered import Powered, agreement, powered
from align.evaluation.winrate import outcome
from align.labelling.session import SESSION, closed, has_session, judgements_of, session_of_folder, session_of_round
from align.pipeline.receipts import Receipt, stage_folder, valid
from align.pipeline.run import Run, open_run
from align.pipeline.stage import Ref
from align.stages.names import BLIND, EVALUATION, PROMPTS
from align.store import read_json, read_table
from align.types import Candidate, Judgement, Prompt, Task, from_table
from annotation.tasks import first_samples
from reward.scorer import Scorer

LOOKS = 20
"""Labels between two looks of a replay."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the gate would decide by. `waiting` judgements are of prompts that others still have to judge."""

    found: Comparisons
    gate: Gate
    waiting: int
    round: int | None
    run: Run | None = None

    def decision(self) -> Decision:
        return decide(self.found, effect=self.gate.effect, alpha=self.gate.alpha)

    def replay(self) -> list[dict[str, Any]]:
        """The verdict after each `LOOKS` labels, in the order in which they were given, and at the end."""
        looks = [*range(LOOKS, len(self.found.values), LOOKS), len(self.found.values)]
        decisions = [(n, decide(self.found.first(n), effect=self.gate.effect, alpha=self.gate.alpha)) for n in looks]
        return [{"labels": n, "verdict": d.verdict, "evidence": d.evidence, "said": sentence(d)} for n, d in decisions]


def asked_gate(folder: Path, round: int | None = None) -> Asked:
    """The comparisons of a run's latest round (or that one), or of a folder that `align annotate push --against` made.

    Raises ConfigError where people compare nothing there.
    """
    if has_session(folder):
        return _of_folder(folder)
    run = open_run(folder)
    judge, annotate = run.recipe.evaluate.judge, run.recipe.annotate
    if not isinstance(judge, PeopleJudge) or annotate is None:
        hint = "give the recipe `evaluate: {judge: people}`, or compare two files by `align annotate push --against`"
        raise ConfigError("nobody compares this run's policies, so there is nothing to decide by", hint=hint)
    asked = _latest(run, round)
    session = session_of_round(run, asked)
    new = stage_folder(run.folder, Ref(asked.round, EVALUATION)) / _key(run, Ref(asked.round, EVALUATION))
    ours = set(read_table(new / SAMPLES).column("id").to_pylist())
    gate = run.recipe.gate or Gate()
    found = _asked(session.tasks, judgements_of(session), ours, judge.overlap, closed(session), gate, asked.round)
    return replace(found, run=run)


def with_judge(asked: Asked, scorer: Scorer, *, tie_width: float = 0.0) -> tuple[Powered, tuple[int, int]]:
    """People's win rate with a judge's help: it compares the answers to every held-out prompt of a run's round, people
    those to some of them, drawn at random; and on how many prompts of how many they prefer the same.

    Prompts whose answers are the same are left out on both sides. Raises ConfigError for a folder that is no run, whose
    tasks are all that it has, and DataError where too few prompts have both.
    """
    if asked.run is None or asked.round is None:
        what = "a judge helps where it judges more prompts than people, and this folder has no others"
        raise ConfigError(what, where="--judge", hint="leave it out, or name a run")
    refs = Ref(asked.round, EVALUATION), Ref(0, EVALUATION)
    folders = [stage_folder(asked.run.folder, ref) / _key(asked.run, ref) / SAMPLES for ref in refs]
    new, old = (first_samples(from_table(Candidate, read_table(folder))) for folder in folders)
    place = stage_folder(asked.run.folder, Ref(0, PROMPTS)) / _key(asked.run, Ref(0, PROMPTS))
    messages = {p.id: p.messages for p in from_table(Prompt, read_table(place / f"{PROMPTS}.parquet"))}
    shared = [p for p in sorted(new.keys() & old.keys()) if new[p].text != old[p].text]
    scores = [scorer.score([messages[p] for p in shared], [side[p].text for p in shared]) for side in (new, old)]
    judged = {
        prompt: outcome(a, b, tie_width)
        for prompt, a, b in zip(shared, *scores, strict=True)
        if a is not None and b is not None
    }
    said: dict[str, list[float]] = {}
    for value, prompt in zip(asked.found.values, asked.found.prompts, strict=True):
        said.setdefault(prompt, []).append(value)
    people = {prompt: fmean(values) for prompt, values in said.items() if prompt in new}
    return powered(people, judged), agreement(people, judged)


def _of_folder(folder: Path) -> Asked:
    blind = read_json(folder / SESSION).get("blind")
    if not blind:
        hint = "`align annotate push FOLDER --candidates NEW --against OLD` makes such tasks"
        raise ConfigError(f"the tasks in {folder} compare no two models", hint=hint)
    session = session_of_folder(folder)
    given = judgements_of(session)
    return _asked(session.tasks, given, set(blind["new"]), session.annotate.overlap, closed(session), Gate(), None)


def _asked(
    tasks: list[Task],
    judgements: list[Judgement],
    ours: set[str],
    overlap: int,
    is_closed: str | None,
    gate: Gate,
    round: int | None,
) -> Asked:
    everything = comparisons(tasks, judgements, ours)
    found = everything if is_closed else comparisons(tasks, judgements, ours, whole=overlap)
    return Asked(found, gate, len(everything.values) - len(found.values), round)


def _latest(run: Run, round: int | None) -> Receipt:
    known: dict[Ref, Receipt | None] = {}
    rounds = range(run.recipe.rounds, 0, -1) if round is None else [round]
    found = (valid(run.folder, Ref(number, BLIND), known) for number in rounds)
    receipt = next((receipt for receipt in found if receipt is not None), None)
    if receipt is None:
        which = "no round" if round is None else f"round {round}"
        raise ConfigError(
            f"{which} of the run in {run.folder} has blind comparisons yet", hint="`align run` makes them"
        )
    return receipt


def _key(run: Run, ref: Ref) -> str:
    receipt = valid(run.folder, ref, {})
    if receipt is None:
        raise ConfigError(f"{ref} of the run in {run.folder} is to be done again", hint="`align run` does it")
    return receipt.key
