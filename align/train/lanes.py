"""Forward and backward passes side by side, each in a thread of its own with its share of the cores.

Between a small model's products there is much that one core does alone. Two passes with half of the cores each fill
them better than one pass with all. What a lane computes does not depend on when the other one does it, so that the
same passes give the same bits. Imports torch: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from align.train.world import world_size

Result = TypeVar("Result")

LANES = 2
MOST_TRAINED = 20_000_000
"""Most weights that are trained: each lane has gradients of its own for them. A larger model's products fill the cores
without it."""
ROPES_THAT_CHANGE = {"dynamic", "longrope"}
"""Rotary positions whose table a long sequence changes, in the model, for all who use it."""


def lanes_for(model: Any, config: Any, device: torch.device, *, checkpointing: bool) -> int:
    """How many passes of `model`, whose config of transformers' is given, may run side by side: `LANES` or 1.

    More than one where a single process trains a small model on several cores of a CPU, and where a pass leaves
    nothing behind that the other could meet: no random numbers, no table of positions that grows.
    """
    trained = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    random = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
    text = config.get_text_config()
    changing = any(kind in str(getattr(text, "rope_parameters", "")) for kind in ROPES_THAT_CHANGE)
    alone = device.type != "cpu" or world_size() > 1 or torch.get_num_threads() < LANES
    one = alone or checkpointing or random or changing or bool(getattr(text, "router_jitter_noise", 0))
    return 1 if one or trained > MOST_TRAINED else LANES


def deal(sizes: Sequence[float], lanes: int) -> list[list[int]]:
    """The numbers of passes of these `sizes` for each lane, none empty: the largest first, to the lane with least.

    Every other lane begins with its smallest, so that the large ones are not all in memory at a time.
    """
    mine: list[list[int]] = [[] for _ in range(lanes)]
    loads = [0.0] * lanes
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        lane = loads.index(min(loads))
        mine[lane].append(number)
        loads[lane] += sizes[number]
    return [numbers[:: 1 if lane % 2 == 0 else -1] for lane, numbers in enumerate(mine) if numbers]


def side_by_side(works: Sequence[Callable[[], Result]]) -> list[Result]:
    """What each of `works` returns, all run at a time; one alone has all cores. The first one's exception is raised.

    The first runs in this thread, whose freed memory it finds again: what a thread frees is not given to others.
    """
    if len(works) < 2:
        return [work() for work in works]
    threads = torch.get_num_threads()
    share = max(1, threads // len(works))
    try:
        with ThreadPoolExecutor(len(works) - 1, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            running = [pool.submit(work) for work in works[1:]]
            torch.set_num_threads(share)
            first = works[0]()
    finally:  # when all are done: a thread's first use takes over the number that was set last, by whomever
        torch.set_num_threads(threads)
    return [first, *(work.result() for work in running)]


class Gradients:
    """Sums of gradients with respect to `weights`, in memory of their own."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights, self.sums = weights, [cast("Tensor | None", None)] * len(weights)

    def add(self, found: Iterable[Tensor | None]) -> None:
        """One for each weight; None where it has no part in the loss."""
        for place, gradient in enumerate(found):
            if gradient is not None:  # the first is copied: autograd may give two weights the same one
                there = self.sums[place]
                self.sums[place] = gradient.clone() if there is None else there.add_(gradient)

    def add_loss(self, loss: Tensor) -> None:
        found = list(torch.autograd.grad(loss, self.weights, allow_unused=True))
        self.add(found.pop(0) for _ in self.weights)  # each is freed once it is added


def learn(
    weights: Sequence[Tensor],
    dealt: Sequence[Sequence[int]],
    passes: Callable[[Sequence[int]], Iterable[tuple[Tensor, Tensor]]],
) -> tuple[Tensor, Tensor]:
    """Learn from what is `dealt` out, a lane each: the losses' gradients come to `grad` of the weights.

    `passes(mine)` gives, pass by pass, a loss and sums of what is logged. Returned are the totals of both. Everything
    is added up within a lane and then in the lanes' order.
    """

    def lane(mine: Sequence[int]) -> tuple[Gradients, Tensor, Tensor]:
        gradients = Gradients(weights)
        seen = []
        for loss, sums_S in passes(mine):
            gradients.add_loss(loss)
            seen.append((loss.detach(), sums_S))
        losses, sums = zip(*seen, strict=True)
        return gradients, sum(losses[1:], losses[0]), sum(sums[1:], sums[0])

    (gradients, total, sums_S), *others = side_by_side([partial(lane, mine) for mine in dealt])
    for more, loss, more_S in others:
        gradients.add(more.sums)
        total, sums_S = total + loss, sums_S + more_S
    for weight, gradient in zip(weights, gradients.sums, strict=True):
        weight.grad = gradient if weight.grad is None or gradient is None else weight.grad + gradient
    return total, sums_S
