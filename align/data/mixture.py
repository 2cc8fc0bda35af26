"""Rows of several origins as one: files of demonstrations in their shares, and labels of earlier rounds."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from align.data.contamination import drop_held_out_demonstrations
from align.data.demonstrations import Demonstration, load_demonstrations, mixed
from align.ids import unit_for
from align.types import Dropped, Prompt


class HasId(Protocol):
    @property
    def id(self) -> str: ...


Label = TypeVar("Label", bound=HasId)


def load_mixture(
    paths: Sequence[Path], shares: Sequence[float], held_out: Sequence[Prompt], *, seed: int
) -> tuple[list[Demonstration], list[Dropped], int]:
    """The demonstrations of the first file with those of the others in their `shares` (`mixed`), all without those
    whose prompt is `held_out`; what was dropped; and how many rows could be used before they were mixed."""
    parts, left_out = [], list[Dropped]()
    for path in paths:
        rows, dropped = load_demonstrations(path)
        kept, contaminated = drop_held_out_demonstrations(rows, held_out)
        parts.append(kept)
        left_out += dropped + contaminated
    return mixed(parts[0], list(zip(parts[1:], shares, strict=True)), seed), left_out, sum(map(len, parts))


def replayed(earlier: Iterable[Label], share: float, *, round: int, seed: int) -> list[Label]:
    """The share `share`, in [0, 1], of earlier rounds' labels that round `round` learns again: by a hash of their
    ids."""
    return [row for row in earlier if unit_for("replay", seed, round, row.id) < share]
