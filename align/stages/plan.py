"""The plan of a run: its stages in the order in which they run, and who declares them.

round 0      prompts → demonstrations → policy (SFT, or the given model) → evaluation
round 1…     rollouts → tasks → (people) → snapshot → preferences → policy → evaluation
or, with preferences or binary labels from a file:     preferences → policy → evaluation
with a reward model:                            preferences → reward → policy → evaluation
                                     and beside it            reward → reward_check
where scoring functions alone say what is good:                        policy → evaluation
and where people judge, behind each evaluation: blind → (people) → blind_snapshot → blind_result
                                        and with a gate, after these: gate
"""

from typing import Protocol

from align.config.recipe import Recipe
from align.pipeline.fingerprint import Fingerprints
from align.pipeline.stage import Declaration, Step
from align.stages import comparison, data, evaluation, gate, labels, policy, reward, rollouts
from align.stages.planning import Planning


class Family(Protocol):
    """A module of this package: the stages that it declares, and which of them a round of a recipe has."""

    @property
    def STAGES(self) -> tuple[Declaration, ...]: ...  # noqa: N802 - a module's constant

    def plan(self, planning: Planning, number: int, /) -> list[Step]:
        """The steps of round `number` in their order; none where the recipe does not ask for them."""
        ...


PLAN: tuple[Family, ...] = (data, rollouts, labels, reward, policy, evaluation, comparison, gate)
"""The families in the order in which a round goes through them."""


def make_plan(recipe: Recipe, fingerprints: Fingerprints) -> list[Step]:
    """All steps in the order in which they run. Raises ConfigError where an outside file is missing."""
    planning = Planning(recipe, fingerprints)
    return [step for number in range(recipe.rounds + 1) for family in PLAN for step in family.plan(planning, number)]


def tables_of(stage: str) -> dict[str, type]:
    """The Parquet files that a stage of this name may publish, and what a row of each is; none of an unknown stage."""
    return {file: row for declared in _declared(stage) for file, row in declared.tables.items()}


def model_of(stage: str) -> str | None:
    """What lineage calls the model that a stage of this name publishes; None where it publishes none."""
    return next((declared.model for declared in _declared(stage) if declared.model), None)


def _declared(stage: str) -> list[Declaration]:
    return [declared for family in PLAN for declared in family.STAGES if declared.name == stage]
