"""The members of a reward ensemble: by how much each one's opinion of an answer differs from the trained model's.

All have the trained model's score, and each adds a linear function of which tokens, and which neighbours, occur in the
answer. The functions are drawn from what the pairs leave open about such a function: the Laplace approximation of its
posterior (MacKay 1992), around 0. So members agree about answers that differ in words which many pairs have told apart,
and disagree about others. It is an epistemic neural network whose epinet is linear in what the answer says (Osband et
al. 2023) and needs no training; counts are hashed into `DIMENSIONS` places (Weinberger et al. 2009), which serves any
vocabulary. Heads drawn likewise over the trunk's last hidden states knew less: docs/decisions.md.

An ensemble's folder is an ordinary reward model's with two files more: `members.json`, and the functions in
`members/functions.safetensors`, apart, since vLLM would load them for weights. Imports numpy, and torch for the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align.errors import DataError
from align.ids import file_id, seed_for
from align.store import read_json, write_json

DIMENSIONS = 1024
PRECISION = 1.0
"""Of the normal prior of a function's weights: one occurrence more or less is worth one unit of score, give or take."""
SUMMARY, FUNCTIONS = "members.json", "members/functions.safetensors"
MIXERS = tuple(np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""The constants of SplitMix64 (Steele et al. 2014)."""


def ngram_counts(answers: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """How often each token and each pair of neighbouring tokens occurs in answers, as token ids; hashed into
    [answers, DIMENSIONS], so that some share a place. Every answer of n tokens has the sum 2 n − 1."""
    counts = np.zeros((len(answers), DIMENSIONS), dtype=np.float32)
    for row, ids in zip(counts, answers, strict=True):
        tokens = np.asarray(ids, dtype=np.uint64) + np.uint64(1)
        grams = np.concatenate([tokens, tokens[:-1] * MIXERS[0] + tokens[1:]])  # in 64 bits, the rest is cut off
        row += np.bincount(_mixed(grams) % np.uint64(DIMENSIONS), minlength=DIMENSIONS)
    return counts


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in ((30, MIXERS[1]), (27, MIXERS[2])):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * factor
    return numbers ^ (numbers >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Members:
    """`functions` [members, DIMENSIONS] have the mean 0 over members; `middle` [DIMENSIONS] are the mean counts of the
    answers that were learned from, about which no member says anything."""

    functions: NDArray[np.float32]
    middle: NDArray[np.float32]

    def deviations(self, answers: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """By how much each member scores answers, as token ids, above the model: [answers, members], in units of
        score."""
        return np.asarray((ngram_counts(answers) - self.middle) @ self.functions.T, dtype=np.float32)


def draw_members(
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    differences_N: NDArray[np.float64],
    weights_N: NDArray[np.float64],
    *,
    members: int,
    seed: int,
) -> Members:
    """Members of an ensemble whose model learned from N pairs of answers, as token ids.

    `differences_N` (d) is by how much it prefers the chosen one, margin taken off, and `weights_N` (w) what a pair
    counts. With a and b the pair's `ngram_counts` the covariance of a function is the inverse of

        Σ w · p (1 − p) · (a − b)(a − b)ᵀ + PRECISION · I,   p = σ(d)

    the Hessian of `reward.trainer.reward_loss` (summed, without its centring) and of the prior. Draws have their mean
    taken off, so that the members' mean is the model, and are scaled such that the sample covariance (divided by K − 1)
    has the posterior as its expectation. The same seed gives the same draws.
    """
    import torch

    of_chosen, of_rejected = ngram_counts(chosen), ngram_counts(rejected)
    apart_ND = torch.from_numpy(of_chosen - of_rejected).double()
    p_N = torch.sigmoid(torch.from_numpy(differences_N))
    curvature_N = torch.from_numpy(weights_N) * p_N * (1 - p_N)
    hessian = (apart_ND * curvature_N[:, None]).T @ apart_ND + PRECISION * torch.eye(DIMENSIONS, dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed_for("members", seed))
    normal_DK = torch.randn(DIMENSIONS, members, generator=draw, dtype=torch.float64)
    normal_DK -= normal_DK.mean(dim=1, keepdim=True)
    # hessian = L Lᵀ, so L⁻ᵀ z has its inverse as covariance
    drawn_DK = torch.linalg.solve_triangular(torch.linalg.cholesky(hessian).T, normal_DK, upper=True)
    return Members(drawn_DK.T.float().numpy(), (of_chosen.mean(axis=0) + of_rejected.mean(axis=0)) / 2)


def member_count(folder: Path) -> int:
    """How many members the reward model in `folder` has; 1 where it is no ensemble."""
    file = folder / SUMMARY
    return int(read_json(file)["members"]) if file.is_file() else 1


def write_members(folder: Path, members: Members) -> None:
    """Make an ensemble of the reward model in `folder`."""
    from safetensors.numpy import save_file

    file = folder / FUNCTIONS
    file.parent.mkdir(exist_ok=True)
    save_file({"functions": np.ascontiguousarray(members.functions), "middle": members.middle}, file)
    write_json(folder / SUMMARY, {"members": len(members.functions), "functions": file_id(file)})


def read_members(folder: Path) -> Members | None:
    """The members in `folder`; None where its model is alone. Raises DataError where they are not those that were
    written there: scores kept under the folder's content id would not be theirs."""
    from safetensors.numpy import load_file

    if not (folder / SUMMARY).is_file():
        return None
    file = folder / FUNCTIONS
    if not file.is_file() or file_id(file) != read_json(folder / SUMMARY)["functions"]:
        what = f"the ensemble's members are not those that {SUMMARY} names"
        raise DataError(what, where=str(file), hint="copy the whole folder again, or train it again")
    return Members(**load_file(file))
