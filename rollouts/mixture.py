"""Mixtures: which checkpoint answers a prompt how often, and at which temperature."""

import itertools
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from align.config.rollouts import SamplingConfig
from align.errors import ConfigError
from align.ids import unit_for


@dataclass(frozen=True, slots=True)
class Policy:
    """A checkpoint folder, and its content id."""

    path: Path
    id: str


@dataclass(frozen=True, slots=True)
class Source:
    """Answers of one policy at one temperature; of all answers it gives `share`, in proportion to the others'
    shares."""

    policy: Policy
    temperature: float
    share: float = 1.0


def sources_of(config: SamplingConfig, policies: dict[str, Policy]) -> list[Source]:
    """The sources that a recipe's section means; `policies` has a policy for each checkpoint that its mixture names.

    Parts that turn out to be one checkpoint at one temperature become one, and those of one checkpoint stand together.
    """
    if not config.mixture:
        return [Source(policies["current"], config.temperature)]
    shares: dict[str, dict[float, float]] = {}
    by_id: dict[str, Policy] = {}
    for part in config.mixture:
        policy = policies[part.checkpoint]
        temperature = config.temperature if part.temperature is None else part.temperature
        of_policy = shares.setdefault(by_id.setdefault(policy.id, policy).id, {})
        of_policy[temperature] = of_policy.get(temperature, 0.0) + part.share
    return [Source(by_id[id], t, share) for id, of_policy in shares.items() for t, share in of_policy.items()]


def require_named(config: SamplingConfig, known: Set[str], prefix: str = "--") -> None:
    """ConfigError where a mixture and what is `known` beside `current` do not fit together; what names a model begins
    with `prefix`."""
    asked: set[str] = {part.checkpoint for part in config.mixture}
    for name in sorted(asked - known):
        what, hint = f"the mixture has answers of `{name}`, and no such model is given", f"name it with {prefix}{name}"
        raise ConfigError(what, where="mixture", hint=hint)
    for name in sorted(known - asked - {"current"}):
        what, hint = "this model has no use here", f"give a `mixture` with `checkpoint: {name}`, or leave it out"
        raise ConfigError(what, where=f"{prefix}{name}", hint=hint)


def counts(shares: Sequence[float], samples: int, *key: object) -> list[int]:
    """How many of a prompt's `samples` answers each share gives: their sum is `samples`, and each count is its share of
    them rounded down or up, so that over many keys (prompts) the shares hold. A pure function of its arguments.

    Systematic sampling (Madow 1949): one random offset, and each share takes the whole numbers that fall into it.
    """
    offset, total, done, ends = unit_for("mixture", *key), math.fsum(shares), 0.0, [0]
    for share in shares[:-1]:
        done += samples * share / total
        nearest = round(done)  # sums of floats must not cut a whole number
        ends.append(math.floor((nearest if abs(done - nearest) < 1e-9 else done) + offset))
    ends.append(samples)
    return [after - before for before, after in itertools.pairwise(ends)]
