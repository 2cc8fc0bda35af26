"""The common arguments of the public API's functions, and their results."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from align.config.recipe import Model, Recipe
from align.config.rollouts import Engine
from align.config.trainer import trl_tables
from align.errors import ConfigError
from align.figures import interval
from align.ids import seed_for
from align.pipeline.output_dir import OutputDir, output_dir
from align.progress import Progress
from align.types import BinaryLabel, Candidate, Dropped, Edit, Judgement, Preference, Prompt, Task

Row = TypeVar("Row")
ModelLike = str | Path | Model
"""A checkpoint's folder, a Hub id (owner/name), or a recipe's `model` section, which also sets the chat template."""


@dataclass(frozen=True, slots=True)
class Compute:
    """The settings of a computation.

    `seed` is at least 0 and below 2³²; every random choice depends on it and on the content. `dtype` is the data type
    of the weights; use bfloat16 on a GPU. `threads` is the number of CPU threads, all cores if None; another number may
    change the last digits of weights. `report_to` lists TRL's experiment trackers, such as trackio, wandb or
    tensorboard; each needs its own package. `engine` is the inference engine for settings that do not set one; if None,
    vLLM if it is installed. `hide_thinking` lists where an answer's thoughts are hidden: `annotators` do not see them;
    `loss` excludes them from the training loss, but the model still sees them. The same values on the same machine give
    the same bytes.
    """

    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None
    report_to: tuple[str, ...] = ()
    engine: Engine | None = None
    hide_thinking: tuple[Literal["annotators", "loss"], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"must be from 0 to 4294967295, found {self.seed}", where="Compute.seed")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"must be float32 or bfloat16, found {self.dtype!r}", where="Compute.dtype")
        if self.threads is not None and self.threads < 1:
            hint = "leave it out for all cores"
            raise ConfigError(f"must be at least 1, found {self.threads}", where="Compute.threads", hint=hint)
        known = trl_tables()["trackers"]
        if strange := [name for name in self.report_to if name not in known]:
            hint = f"TRL has {', '.join(known)}; give a tuple of them"
            raise ConfigError(f"{strange[0]!r} is no tracker", where="Compute.report_to", hint=hint)
        if unknown := [name for name in self.hide_thinking if name not in ("annotators", "loss")]:
            what = f"thoughts can be hidden from annotators and loss, found {unknown[0]!r}"
            raise ConfigError(what, where="Compute.hide_thinking", hint='give a tuple, as ("loss",)')

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The settings of a recipe: its `seed`, `threads`, `report_to`, `rollouts`, `model.dtype` and
        `model.hide_thinking`."""
        model = recipe.model
        hidden = tuple(model.hide_thinking)
        return cls(recipe.seed, model.dtype, recipe.threads, tuple(recipe.report_to), recipe.rollouts, hidden)

    def seeded(self, purpose: str) -> Self:
        """The same settings with the seed that `align run` uses for a purpose: `rollouts 1` for the answers of round 1,
        `evaluation` for the answers to held-out prompts. Another purpose gives other random numbers."""
        return replace(self, seed=seed_for(f"{self.seed} {purpose}") % 2**31)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a function writes. At the end the folder `out` exists completely, or not at all.

    Until then `work` (if None: `out.work` beside `out`) holds the finished parts. After a kill or an error, the same
    call continues from it; at the end it is removed. `progress` is called with (done, total, message). Raises
    ConfigError if the folder `out` already exists.
    """

    out: str | Path
    work: str | Path | None = None
    progress: Progress | None = None

    @classmethod
    def fresh(cls, out: str | Path) -> Self:
        """A workspace at `out` with a random suffix, so that the folder does not exist yet."""
        return cls(f"{out}-{secrets.token_hex(4)}")

    def at(self, name: str) -> Self:
        """A workspace for the folder `name` inside `out`, for a script with several steps."""
        return replace(self, out=Path(self.out) / name, work=Path(self.work) / name if self.work is not None else None)


class Rows(list[Row]):
    """The rows of a file. `dropped` are the rows that cannot be used, each with its `file:line` and the reason."""

    def __init__(self, rows: Iterable[Row], dropped: Sequence[Dropped]) -> None:
        super().__init__(rows)
        self.dropped = list(dropped)


@dataclass(frozen=True, slots=True)
class Samples:
    """Answers: `candidates`, each to one of `prompts`, and `dropped` ones with the reason."""

    prompts: list[Prompt]
    candidates: list[Candidate]
    dropped: list[Dropped]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Tasks and the judgements about them. `sides_drawn`: the side of the screen for each answer was random, as in
    `ask`. Then a side that most annotators prefer shows a bias. Otherwise a strong preference for one side is taken as
    real, because the better answers may have been there."""

    tasks: list[Task]
    judgements: list[Judgement]
    sides_drawn: bool = False


@dataclass(frozen=True, slots=True)
class Labels:
    """Compiled judgements (docs/label-compiler.md): training rows with `target` and `weight`, and answers that people
    wrote (`edits`). `annotators` gives the estimated reliability of each annotator; `notes` are readable messages."""

    preferences: list[Preference]
    binary: list[BinaryLabel]
    edits: list[Edit]
    dropped: list[Dropped]
    annotators: Mapping[str, Mapping[str, Any]]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Trained:
    """A new model: the folder `checkpoint` (safetensors and tokenizer, merged if LoRA was used), and the `metrics` of
    training: `steps`, first and last loss, rows used and `dropped` by reason, and those of the method."""

    checkpoint: Path
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval, which resamples whole prompts."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return interval({"mean": self.mean, "low": self.low, "high": self.high})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluation of a model's answers, `samples`. `win_rate`, in [0, 1], is how often they beat the other model's
    answers, where a tie counts half; None if there are no others. `mean_score` is in the scorer's units; None if people
    judged, and for a single prompt. `metrics` has all measurements, as in `result.json` in `folder`."""

    folder: Path
    samples: Samples
    win_rate: Estimate | None
    mean_score: Estimate | None
    metrics: Mapping[str, Any]


@contextmanager
def opened(workspace: Workspace) -> Iterator[OutputDir]:
    """The workspace as an `OutputDir` of `align.pipeline.output_dir`."""
    work = None if workspace.work is None else Path(workspace.work)
    with output_dir(Path(workspace.out), work, where="workspace.out") as place:
        yield place


def checkpoint_in(place: OutputDir, model: ModelLike, compute: Compute, *, random: bool = False) -> Path:
    """`model` as a checkpoint folder in the work folder; with `random`, a folder with a config and no weights gets
    random weights."""
    seed = compute.seed if random else None
    if not isinstance(model, Model):
        return place.checkpoint(str(model), revision=None, dtype=compute.dtype, seed=seed)
    if model.dtype != compute.dtype:
        what = f"model.dtype is {model.dtype} and Compute.dtype is {compute.dtype}"
        raise ConfigError(what, hint="give both the same; `Compute.of(recipe)` does")
    if set(model.hide_thinking) - set(compute.hide_thinking):
        what = (
            f"model.hide_thinking is {model.hide_thinking} and Compute.hide_thinking is {list(compute.hide_thinking)}"
        )
        raise ConfigError(what, hint="give both the same; `Compute.of(recipe)` does")
    given = model.model_dump(mode="json", exclude={"path", "dtype", "hide_thinking"})
    return place.checkpoint(model.path, dtype=compute.dtype, seed=seed, **given)


def estimate(found: Mapping[str, Any] | None) -> Estimate | None:
    """The estimate in a measurement; None if it has none."""
    if found is None or found["mean"] is None:
        return None
    return Estimate(found["mean"], found["low"], found["high"])
