"""Read files: prompts, demonstrations, preferences, binary labels and answers, in the formats of docs/files.md."""

from collections.abc import Sequence
from pathlib import Path

from align.api.given import Rows, Samples
from align.config.recipe import Prompts
from align.config.training import Sft
from align.data.demonstrations import Demonstration
from align.types import BinaryLabel, Preference, Prompt


def load_prompts(source: str | Path | Prompts, *, test_share: float = 0.0) -> Rows[Prompt]:
    """Load the distinct prompts of a JSONL or Parquet file, or of a recipe's section `prompts`.

    The share `test_share`, in [0, 1), gets the split `test`. It is chosen by a hash of the prompt's text alone, so a
    prompt never changes its split when others are added. A section sets this share itself, and the number of prompts.
    Raises DataError for a file that cannot be read, and for a section with an empty split; ConfigError for a
    `test_share` together with a section.
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
    """Load demonstrations (conversations with the answers to learn) from a file, or from a recipe's section `sft`.

    Rows about a prompt of `held_out` (or one with the same text) are dropped, because training and test would share
    them. A section's `mix` adds more files in their shares, sampled with `seed`. Raises DataError for a file that
    cannot be read.
    """
    from align.data.mixture import load_mixture

    mix = source.mix if isinstance(source, Sft) else []
    first = source.demonstrations if isinstance(source, Sft) else Path(source)
    paths, shares = [first, *(part.path for part in mix)], [part.share for part in mix]
    rows, dropped, _ = load_mixture(paths, shares, held_out, seed=seed)
    return Rows(rows, dropped)


def load_preferences(path: str | Path, *, held_out: Sequence[Prompt] = ()) -> Rows[Preference]:
    """Load preferences (pairs of a better and a worse answer) from a file. Rows about a prompt of `held_out` are
    dropped.

    If a row does not give them, `target`, the probability that `chosen` is better, is 1, and `weight` is 1. Raises
    DataError for a file that cannot be read.
    """
    from align.data.contamination import drop_held_out_preferences
    from align.data.preferences import load_preferences

    rows, dropped = load_preferences(Path(path))
    kept, contaminated = drop_held_out_preferences(rows, held_out)
    return Rows(kept, dropped + contaminated)


def load_binary(path: str | Path, *, held_out: Sequence[Prompt] = ()) -> Rows[BinaryLabel]:
    """Load binary labels (an answer, and whether it is good or bad, as in KTO) from a file. Rows about a prompt of
    `held_out` are dropped.

    If a row does not give them, `target`, the probability in [0, 1] that the answer is good, is 1 or 0 by the row's
    `label`, and `weight` is 1. Raises DataError for a file that cannot be read.
    """
    from align.data.binary import load_binary
    from align.data.contamination import drop_held_out_binary

    rows, dropped = load_binary(Path(path))
    kept, contaminated = drop_held_out_binary(rows, held_out)
    return Rows(kept, dropped + contaminated)


def load_candidates(path: str | Path) -> Samples:
    """Load answers from a file that `sample` or `align rollout` wrote, or from another model's answers. Raises
    DataError with the line of a row that has no prompt or no text."""
    from align.data.candidates import load_candidates

    return Samples(*load_candidates(Path(path)), dropped=[])
