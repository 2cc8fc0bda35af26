"""What a stage is: a declaration, its place in a run's plan, and the job that its function gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

PARTIAL, WORK = ".partial", ".work"
"""Endings of the folder that a stage's result grows in, and of its scratch beside it."""
JOB = "job.json"
"""In the scratch of a stage that runs in a process of its own: what it was asked to do."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Names a stage of a run."""

    round: int
    stage: str

    def __str__(self) -> str:
        return f"{self.round}/{self.stage}"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a stage is in every recipe. It stands beside its function.

    `name` is its folder's; several declarations may share one (a policy comes from DPO or from PPO). `function`,
    written "module:function", takes a `Job` and a `Progress`, writes into `job.out` and returns the summary for the
    receipt: under `notes` sentences for people, under `blocked` the reason why the run must not go on. `version` rises
    when the meaning of the result changes. `tables` are the Parquet files of the result and what a row of each is
    (`align.types`).

    `model` is what lineage calls the model that the stage publishes; its summary then has `checkpoint`, the model's id,
    and `parent`. `freeze`, "module:function", takes a run's folder, the `Stage` and the receipts of its inputs and
    returns the `Stage` with what its key depends on besides. With `subprocess` the function runs in a process of its
    own.
    """

    name: str
    function: str
    version: int = 1
    tables: Mapping[str, type] = field(default_factory=dict)
    model: str | None = None
    freeze: str | None = None
    subprocess: bool = False

    def stage(self, round: int, **parts: Mapping[str, Any]) -> "Stage":
        """This stage in round `round` of a plan; `parts` are fields of `Stage`."""
        return Stage(Ref(round, self.name), self, **parts)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a plan.

    `files` are ids of outside files by name; `settings` is everything of the recipe that the result depends on;
    `runtime` goes to the function too but not into the key (threads, trackers): it must not change the result.
    """

    ref: Ref
    declared: Declaration
    inputs: Mapping[str, Ref] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """The step that is no stage: people are asked until the round's `tasks` are answered."""

    ref: Ref
    tasks: Ref


Step = Stage | Wait


@dataclass(frozen=True, slots=True)
class Waiting:
    """`done` of `total` wanted answers are in; people label at `url`. `note` is what somebody should know besides."""

    done: int
    total: int
    url: str
    note: str = ""

    def __str__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return f"{self.done} of {self.total} answers are in; label at {self.url}{note}"


@dataclass(frozen=True, slots=True)
class Job:
    """What a stage's function gets. `out` is where its result goes, and beside it is scratch that survives a kill.

    Of several processes each has an `out` of its own, and `shared` is the scratch of all.
    """

    round: int
    stage: str
    inputs: dict[str, Path]
    settings: dict[str, Any]
    runtime: dict[str, Any]
    out: Path
    shared: Path | None = None

    @property
    def scratch(self) -> Path:
        folder = self.shared or self.out.with_suffix(WORK)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def function_of(name: str) -> Callable[..., Any]:
    """The function that a declaration names as "module:function"."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]
