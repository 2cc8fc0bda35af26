"""Files in: prompts, demonstrations, preferences, binary labels and answers, in the forms of docs/files.md."""

from collections.abc import Sequence
from pathlib import Path

from align.api.given import Rows, Samples
from align.config.recipe import Prompts
from align.config.training import Sft
from align.data.demonstrations import Demonstration
from align.types import BinaryLabel, Preference, Prompt


def load_prompts(source: str | Path | Prompts, *, test_share: float = 0.0) -> Rows[Prompt]:
    """The distinct prompts of a JSONL or Parquet file, or of a recipe's section `prompts`.

    The share `test_share`, in [0, 1), has the split `test`, by a hash of the prompt's text alone: it never crosses,
    whatever is added later. A section says that itself, and how many prompts it wants. Raises DataError for a file that
    cannot be read, and for a section one of whose sides stays empty; ConfigError for a `test_share` beside a section.
    """
    from align.data.prompts import load_prompts, read_prompts
    from align.errors import ConfigError

    if isinstance(source, Prompts):
        if test_share:
            raise ConfigError("the section has a test_share of its own", where="test_share", hint="leave one out")
        return Rows(*load_prompts(source))
    return Rows(*read_prompts(Path(source), test_share))


def load_demonstrations(
    source: str | Path | Sft, *, held_out: Sequence[Prompt] = (), seed: int = 0
) -> Rows[Demonstration]:
    """Conversations and the answers that a model should learn to give, of a file or of a recipe's section `sft`.

    Rows about a prompt of `held_out` (or one that reads the same) are dropped: they would be trained on and tested on. A
    section's `mix` adds more files in their shares, drawn by `seed`. Raises DataError for a file that cannot be read.
    """
    from align.data.mixture import load_mixture

    mix = source.mix if isinstance(source, Sft) else []
    first = source.demonstrations if isinstance(source, Sft) else Path(source)
    paths, shares = [first, *(part.path for part in mix)], [part.share for part in mix]
    rows, dropped, _ = load_mixture(paths, shares, held_out, seed=seed)
    return Rows(rows, dropped)


def load_preferences(path: str | Path, *, held_out: Sequence[Prompt] = ()) -> Rows[Preference]:
    """Pairs of a better and a worse answer, of a file; rows about a prompt of `held_out` are dropped.

    `target`, the probability that `chosen` is better, is 1 and `weight` 1 where a row says no other. Raises DataError for
    a file that cannot be read.
    """
    from align.data.contamination import drop_held_out_preferences
    from align.data.preferences import load_preferences

    rows, dropped = load_preferences(Path(path))
    kept, contaminated = drop_held_out_preferences(rows, held_out)
    return Rows(kept, dropped + contaminated)


def load_binary(path: str | Path, *, held_out: Sequence[Prompt] = ()) -> Rows[BinaryLabel]:
    """Binary labels, of a file: an answer and whether it is good, as KTO learns from; rows about a prompt of `held_out`
    are dropped.

    `target`, the probability in [0, 1] that it is good, is 1 or 0 by a row's `label` where the row says no other, and
    `weight` 1. Raises DataError for a file that cannot be read.
    """
    from align.data.binary import load_binary
    from align.data.contamination import drop_held_out_binary

    rows, dropped = load_binary(Path(path))
    kept, contaminated = drop_held_out_binary(rows, held_out)
    return Rows(kept, dropped + contaminated)


def load_candidates(path: str | Path) -> Samples:
    """Answers of a file, such as `sample` and `align rollout` write, or another model's. Raises DataError with the line
    of a row that has no prompt or no text."""
    from align.data.candidates import load_candidates

    return Samples(*load_candidates(Path(path)), dropped=[])
