"""What takes torch, a server or people in a run, without them; `in_place` puts it where the real thing would be.

At the three seams: an engine (`rollouts.Generator`), reward models (`reward.Scorer`) and annotators (the backend in
memory). Beside them no more than what loads torch:
- the model's import and the trainings, which need TRL, and `join`, in which they would meet;
- the class of the tokenizer, since transformers' own load torch; its vocabulary is a real one;
- the sync check, which reads an engine's weights.
Stages run in this process, by a clock that stands still but for what each is said to take.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from jinja2 import Template

from align.config.base import Sampling
from align.config.recipe import Persona
from align.ids import unit_for
from align.labelling.session import Session
from align.pipeline import runner
from align.pipeline.stage import Job
from align.pipeline.stage_worker import run_here
from align.progress import Progress
from align.store import read_json, write_json, write_rows, write_table
from align.sync import Agreement
from align.types import Dropped, Message, Summary, Task, to_table
from annotation.backend import Answer, Submitted
from annotation.memory import MemoryBackend
from annotation.simulate import label
from rollouts.engine import Completion, Request
from tests import fake_world
from tests.tiny import CHATML, END, PAD, START, STOP, make_core

Speech = Callable[[int, str, int], str]
"""What the policy of a round answers: (round, prompt's text, sample) → answer."""
SECONDS = {
    "prompts": 0.8, "rollouts": 21.4, "reward": 14.2, "reward_check": 6.1, "policy": 31.7, "evaluation": 11.9,
}  # fmt: skip
LIGHT, SFT = 0.3, 75.0
"""Seconds that a stage takes by the clock of a run: one without a model of its own, and the fine-tuning of round 0."""
PEOPLE = [
    Persona(name=name, error_rate=0.1, skip_rate=0.03, tie_width=0.05, suggestible=0.3) for name in ("ada", "bo", "chi")
]
SPOKEN: dict[str, Any] = {
    "reason": "Warmer.\nbo: [cafe] is better \x1b[31m<script>hit()</script>\u202e",
    "edit": "We are sorry about the lamp, and we <b>refund</b> it.",
    "flags": ["b:unsafe", "b:off_topic"],
    "strength": 2,
}
"""What a person who says more than a choice says, in half of the preferences for the first answer."""


class Clock:
    """In place of the runner's `time` and `datetime`."""

    def __init__(self, day: int) -> None:
        self._now = 86400.0 * day

    def monotonic(self) -> float:
        return self._now

    def now(self, zone: tzinfo) -> datetime:
        return datetime(2026, 11, 1, 10, tzinfo=UTC) + timedelta(seconds=self._now)

    def stage(self, function: str, job: Job, progress: Progress) -> Summary:
        """Every stage in this process."""
        self._now += SFT if function.endswith(":sft_policy") else SECONDS.get(job.stage, LIGHT)
        return run_here(function, job, progress)


class Tokenizer:
    """What `align.text` asks of transformers' tokenizer, with ChatML."""

    chat_template = CHATML
    eos_token, pad_token, unk_token_id = END, PAD, None

    def __init__(self) -> None:
        said = [*fake_world.TROUBLE, *fake_world.TROUBLE.values(), *fake_world.FILLERS, fake_world.GREETING]
        words = {word for text in [*said, fake_world.SORRY] for word in text.replace("{}", "").split()}
        self.core = make_core(sorted({*words, *fake_world.ITEMS, *fake_world.COLOURS}))
        self.all_special_tokens = [PAD, START, END, STOP]
        self.all_special_ids = [self.core.token_to_id(token) for token in self.all_special_tokens]
        special = zip(self.all_special_tokens, self.all_special_ids, strict=True)
        self.added_tokens_decoder = {id: SimpleNamespace(content=token, special=True) for token, id in special}
        self.pad_token_id, _, self.eos_token_id, _ = self.all_special_ids
        self._template = Template(CHATML)

    def __call__(self, text: str | list[str], **how: Any) -> SimpleNamespace:
        many = self.core.encode_batch([text] if isinstance(text, str) else text, add_special_tokens=False)
        ids = [one.ids for one in many]
        return SimpleNamespace(input_ids=ids[0] if isinstance(text, str) else ids)

    def decode(self, ids: Sequence[int], **how: Any) -> str:
        return str(self.core.decode(list(ids), skip_special_tokens=False))

    def apply_chat_template(self, turns: Sequence[Any], *, add_generation_prompt: bool, **how: Any) -> str:
        return self._template.render(messages=turns, add_generation_prompt=add_generation_prompt)

    def convert_ids_to_tokens(self, id: int) -> str:
        return str(self.core.id_to_token(id))

    def get_vocab(self) -> dict[str, int]:
        return dict(self.core.get_vocab())


tokenizer = cache(Tokenizer)


@dataclass(frozen=True, slots=True)
class Engine:
    """`rollouts.Generator` with the policy of a round."""

    speech: Speech
    number: int

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        return [[self._complete(request, sampling, n) for n in range(samples)] for request in requests]

    def _complete(self, request: Request, sampling: Sampling, sample: int) -> Completion:
        tokens = tokenizer()
        asked = tokens.decode(request.token_ids).rpartition(f"{START}user\n")[2].partition(END)[0]
        ids = [*tokens(self.speech(self.number, asked, sample)).input_ids, tokens.eos_token_id]
        if len(ids) > sampling.max_tokens:
            return Completion(ids[: sampling.max_tokens], "length")
        return Completion(ids, "stop")

    def close(self) -> None:
        """It holds nothing."""


@dataclass(frozen=True, slots=True)
class Reward:
    """`reward.Scorer` that is the reward model of a round. It knows what was said in its own rounds: of later answers
    it knows the share `forgets` of how good they are."""

    speech: Speech
    number: int
    forgets: float

    @property
    def id(self) -> str:
        return f"reward of round {self.number}"

    def outputs(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[list[float] | str]:
        return [[self._one(messages, answer)] for messages, answer in zip(prompts, answers, strict=True)]

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        return [self._one(messages, answer) for messages, answer in zip(prompts, answers, strict=True)]

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return [self._one(messages, answer) for messages, answer in zip(prompts, answers, strict=True)]

    def close(self) -> None:
        """It holds nothing."""

    def _one(self, messages: list[Message], answer: str) -> float:
        asked = messages[-1]["content"]
        known = answer in {self.speech(n, asked, sample) for n in range(self.number) for sample in (0, 1)}
        good = 2 * fake_world.utility(messages, answer) * (1 if known else self.forgets)
        return good + NormalDist().inv_cdf(unit_for("luck", self.number, asked, answer))


class Annotators(MemoryBackend):
    """The backend in memory. With `utility` it has people who answer by themselves, as behind `by: people`; with
    `speaks` those who prefer the first answer say more; with `half` nobody comes back after half of the answers."""

    def __init__(self, *, speaks: bool, half: bool, unasked: bool) -> None:
        super().__init__()
        self._speaks, self._half, self._unasked = speaks, half, unasked

    def submit(self, tasks: Sequence[Task]) -> Submitted:
        done = super().submit(tasks)
        if self._unasked:
            label(self, tasks, PEOPLE, _utilities, seed=0)
        return done

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        given = [self._in_words(api_key, answer) for answer in answers]
        super().answer(api_key, given[: len(given) // 2] if self._half else given)

    def _in_words(self, who: str, answer: Answer) -> Answer:
        speaks = self._speaks and answer.outcome == "a" and unit_for("speaks", answer.task_id, who) < 0.5
        return replace(answer, **SPOKEN) if speaks else answer


def _utilities(prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
    return [fake_world.utility(p, a) for p, a in zip(prompts, answers, strict=True)]


def write_model(folder: Path, **says: Any) -> None:
    """A checkpoint of four bytes; its config says what it is."""
    write_json(folder / "config.json", {"model_type": "invented", **says})
    tokenizer().core.save(str(folder / "tokenizer.json"))
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    weight = struct.pack("<f", Random(str(says)).random())
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weight)


def _number(folder: Path) -> int:
    return int(read_json(folder / "config.json")["round"])


def _published(out: Path, number: int, rows: list[dict[str, Any]], used: Sequence[Any]) -> dict[str, Any]:
    """What every training leaves beside its checkpoint, and its metrics."""
    write_model(out, round=number)
    write_table(out / "dropped.parquet", to_table(Dropped, []))
    (out / "logs").mkdir(exist_ok=True)
    write_rows(out / "logs" / "metrics.jsonl", [*rows, {"step": len(rows), "train_runtime": 31.0}])
    return {"steps": len(rows), "rows": len(used), "dropped": {}}


def _steps(number: int, count: int) -> Iterator[tuple[dict[str, Any], float, float]]:
    """Of each step the row that every log has, which part of the training is done, and some noise."""
    rng = Random(number)
    for step in range(1, count + 1):
        part = step / count
        yield {"step": step, "epoch": part, "learning_rate": 1e-3 * (1 - part)}, part, rng.gauss(0, 1)


def train_sft(model: Path, rows: Sequence[Any], config: Any, *, out: Path, **given: Any) -> dict[str, Any]:
    log = [row | {"loss": 1.1 + 5.2 * 0.86 ** row["step"] + 0.04 * noise} for row, _, noise in _steps(0, 52)]
    return _published(out, 0, log, rows)


def train_dpo(parent: Path, rows: Sequence[Any], config: Any, *, out: Path, **given: Any) -> dict[str, Any]:
    number, log = _number(parent) + 1, []
    for row, part, noise in _steps(number, 48):
        accuracy = min(1.0, max(0.0, 0.5 + 0.3 * part + 0.06 * noise))
        row |= {"loss": 0.693 - 0.25 * part + 0.03 * noise, "rewards/accuracies": accuracy}
        log.append(row | {"rewards/margins": 0.9 * part + 0.05 * noise})
    return _published(out, number, log, rows)


def train_ppo(parent: Path, rows: Sequence[Any], config: Any, *, out: Path, score: Any, **given: Any) -> dict[str, Any]:
    """It asks for the score of what every prompt gets, and says the same of each training."""
    score([row.messages for row in rows], [fake_world.GREETING for _ in rows])
    steps = _steps(_number(parent) + 1, 48)
    log = [r | {"loss": 0.1 * noise, "reward": 0.25 + 1.25 * part, "kl": 0.0625 * part} for r, part, noise in steps]
    metrics = _published(out, _number(parent) + 1, log, rows)
    return metrics | {"mean_score_first": 0.25, "mean_score_last": 1.5, "kl_last": 0.0625}


def train_reward(parent: Path, rows: Sequence[Any], config: Any, *, out: Path, **given: Any) -> dict[str, Any]:
    log = [{"step": step, "loss": 0.7 - 0.01 * step, "accuracy": 0.5 + 0.01 * step} for step in range(1, 20)]
    return _published(out, _number(parent) + 1, log, rows)


@contextmanager
def in_place(
    speech: Speech, backend: Callable[[Session], MemoryBackend], *, day: int, forgets: float
) -> Iterator[None]:
    """Inside the block a run needs no torch, no process and no server, and its clock starts at `day`."""
    clock = Clock(day)

    def import_model(path: str, out: Path, **given: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        write_model(out, round=0)

    @contextmanager
    def open_generator(engine: Any, checkpoint: Path, **given: Any) -> Iterator[Engine]:
        yield Engine(speech, _number(checkpoint))

    def load_scorer(folder: Path, **given: Any) -> Reward:
        return Reward(speech, _number(folder), forgets)

    parts: dict[str, Any] = {
        "align.text.load_tokenizer": lambda path, **how: tokenizer(),
        "rollouts.sample.open_generator": open_generator,
        "rollouts.sample.check_sync": lambda generator, checkpoint, requests, **how: Agreement(0.0, 0.0, 0),
        "align.train.checkpoint.import_model": import_model,
        "align.train.world.join": lambda: None,
        "align.train.sft.train_sft": train_sft,
        "align.train.dpo.train_dpo": train_dpo,
        "align.train.ppo.train_ppo": train_ppo,
        "reward.train.train_reward": train_reward,
        "reward.load.load_scorer": load_scorer,
        "align.labelling.session.open_backend": backend,
    }
    for name in parts:  # before anything is replaced, or a module that is imported inside keeps what stood in for it
        import_module(name.rpartition(".")[0])
    with ExitStack() as placed:
        for name, part in parts.items():
            placed.enter_context(patch(name, part))
        for name in ("run_here", "run_apart"):
            placed.enter_context(patch.object(runner, name, clock.stage))
        for name in ("time", "datetime"):
            placed.enter_context(patch.object(runner, name, clock))
        yield
