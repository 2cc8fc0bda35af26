"""What one data set asks of people: the kind of its tasks and the questions beside them."""

from dataclasses import dataclass

from align.config.recipe import Annotate
from align.types import TaskKind


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of task with up to `answers` answers beside each other.

    `criteria` are what is rated (kind rating only). `ask` are the optional questions among `strength`, `flags`, `edit`
    and `reason`. With `suggest` a task's `suggested` outcome is pre-selected on the page; otherwise never.
    """

    kind: TaskKind = "pair"
    answers: int = 2
    criteria: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    suggest: bool = False
    hide_thinking: bool = False
    """Answers are shown, and told apart, without their thoughts."""


ANSWERS = {"pair": 2, "blind_ab": 2, "rank": 4, "single": 1, "rating": 1}
"""How many answers stand beside each other, where the recipe does not say."""


def form_of(annotate: Annotate, hide_thinking: bool = False) -> Form:
    """The form of a recipe's training tasks."""
    return Form(
        kind=annotate.kind,
        answers=annotate.rank_of or ANSWERS[annotate.kind],
        criteria=tuple(annotate.criteria),
        ask=tuple(name for name in annotate.ask if name != "strength" or annotate.kind == "pair"),
        suggest=annotate.suggest is not None,
        hide_thinking=hide_thinking,
    )


def blind_form(annotate: Annotate, hide_thinking: bool = False) -> Form:
    """The form of blind comparisons of two checkpoints: nothing but which is better, and why."""
    ask = tuple(name for name in annotate.ask if name == "reason")
    return Form(kind="blind_ab", ask=ask, hide_thinking=hide_thinking)
