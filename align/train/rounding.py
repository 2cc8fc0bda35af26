"""What was trained arrives in what is published: weights are rounded to bfloat16 at random, and the change is measured.

A step of 1e-6 is far smaller than half a step of bfloat16, so that rounding to the nearest gives the parent's weights
back: 99% of the trained change is gone. Rounded up with the probability that the remainder says, each weight is the
trained one on average (stochastic rounding; Gupta et al. 2015), and over many weights the change arrives. It takes no
disk and no memory beside, and what vLLM serves, the next round starts from and the reference is are the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import StageError
from align.ids import seed_for

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LEAST = 0.9
"""The share of the trained change that has to be in what is published."""
SURE_DEVIATIONS = 4.0
MEASURED_BYTES = 2 << 30
"""Models with fewer bytes of float32 weights have their change of log-probabilities measured too, which takes two such
copies in memory."""
DRAWS = 8
_LOW_BITS = 16
"""Those that bfloat16 cuts off a float32."""


@dataclass(slots=True)
class Arrived:
    """Sums over weights, w being the parent's, t the trained one and p the published one: of (p − w)(t − w), of (t − w)²,
    and the variance of the first under stochastic rounding."""

    arrived: float = 0.0
    trained: float = 0.0
    variance: float = 0.0

    def add(self, parent: Tensor, trained: Tensor, published: Tensor) -> None:
        change, told = (x.double() - parent.double() for x in (trained, published))
        self.arrived += float((told * change).sum())
        self.trained += float((change * change).sum())
        remainder = (published.double() - trained.double()).abs()
        step = _step(trained).double()
        self.variance += float((change**2 * remainder * (step - remainder).clamp(min=0)).sum())

    @property
    def share(self) -> float:
        """Of the trained change how much is published; 1 where nothing was trained."""
        return self.arrived / self.trained if self.trained else 1.0

    def require(self, where: str) -> float:
        """The share; StageError where it is surely under `LEAST`."""
        luck = SURE_DEVIATIONS * math.sqrt(self.variance) / self.trained if self.trained else 0.0
        if not self.share >= LEAST - luck:
            raise StageError(
                f"only {self.share:.1%} of the trained change of the weights is in what would be published",
                where=where,
                hint="raise the learning rate, or set model.dtype: float32",
            )
        return self.share


def stochastic(weights: Tensor, name: str, draw: int = 0) -> Tensor:
    """Float32 weights as bfloat16, up or down at random so that each is right on average.

    The draws depend on the name, the number of the `draw` and the weights' own bytes: the same training publishes the same bytes, and another
    round draws anew. Numbers that bfloat16 has stay as they are.
    """
    import torch

    exact = weights.detach().float().contiguous()
    bits = exact.view(torch.int32)
    generator = torch.Generator().manual_seed(seed_for("rounding", name, draw, int(bits.sum(dtype=torch.int64))))
    drawn = torch.randint(0, 1 << _LOW_BITS, bits.shape, generator=generator, dtype=torch.int32).to(bits.device)
    rounded = ((bits + drawn) & -(1 << _LOW_BITS)).view(torch.float32)
    return torch.where(exact.isfinite(), rounded, exact).to(torch.bfloat16)


def _step(weights: Tensor) -> Tensor:
    """The distance between the two bfloat16 numbers around each float32."""
    import torch

    bits = weights.detach().float().contiguous().view(torch.int32)
    low = bits & -(1 << _LOW_BITS)
    return ((low + (1 << _LOW_BITS)).view(torch.float32) - low.view(torch.float32)).abs()


def rounded_in_place(model: Any, source: Path, draw: int = 0) -> Arrived:
    """Round a trained model's float32 weights, one tensor at a time; what they were is read from `source`."""
    import torch

    found = Arrived()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dtype == torch.float32:
                kept = stochastic(weights, name, draw)
                before = _stored(source, name, weights)
                if before is not None:
                    found.add(before, weights.detach().cpu(), kept.float().cpu())
                weights.data = kept
    return found


def merged_in_place(model: Any, draw: int = 0) -> tuple[Any, Arrived]:
    """A LoRA model without its adapter, which was added to each layer in float32 and rounded there; and what arrived."""
    import torch

    found = Arrived()
    with torch.no_grad():
        for name, base, change in layers_of(model):
            exact = base.data.float() + change.float()
            kept = stochastic(exact, name, draw) if base.dtype == torch.bfloat16 else exact.to(base.dtype)
            if base.dtype == torch.bfloat16:
                found.add(base.data.float().cpu(), exact.cpu(), kept.float().cpu())
            base.data = kept
        for module in lora_layers(model).values():  # merging what is left of it adds 0
            for adapter in module.active_adapters:
                module.lora_B[adapter].weight.zero_()
    return model.merge_and_unload(), found


def layers_of(model: Any) -> Iterator[tuple[str, Any, Tensor]]:
    """Of a LoRA model each adapted layer's name, its weights and what the adapter adds to them."""
    for name, module in lora_layers(model).items():
        for adapter in module.active_adapters:
            yield f"{name}.weight", module.get_base_layer().weight, module.get_delta_weight(adapter)


def lora_layers(model: Any) -> dict[str, Any]:
    """A LoRA model's adapted layers by the names that they have without it."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in model.base_model.model.named_modules() if isinstance(layer, LoraLayer)}


def _stored(folder: Path, name: str, like: Tensor) -> Tensor | None:
    """A tensor of a checkpoint folder in float32, None where it has none of that name and shape (a new head)."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:  # type: ignore[no-untyped-call]
            if name in weights.keys() and list(weights.get_slice(name).get_shape()) == list(like.shape):  # noqa: SIM118
                return weights.get_tensor(name).float()  # type: ignore[no-any-return]
    return None


Logps = Callable[[Any], "Tensor"]


@dataclass(frozen=True, slots=True)
class Draw:
    """A draw of the rounding, by its number, the share of the trained change of log-probabilities that it keeps, and the
    numbers that the published folder has to give again."""

    number: int
    share: float
    told: Tensor


def best_draw(model: Any, source: Path, load: Callable[[Path], PreTrainedModel], logps: Logps) -> Draw | None:
    """Of `DRAWS` the one whose log-probabilities are nearest to those of the trained float32 weights.

    Of a model with few weights a single draw may be as loud as a short training. All is computed in float32, for
    bfloat16's arithmetic is much coarser than a round's change. None for a model that is too large for that: there a
    draw is quiet, as its noise falls with the root of the number of weights.
    """
    import torch

    if sum(weights.numel() for weights in model.parameters()) * 4 > MEASURED_BYTES:
        return None
    exact, adapted = load(source), hasattr(model, "peft_config")
    own = dict(exact.named_parameters())
    with torch.no_grad():
        if adapted:  # its base may have been rounded when it was loaded
            _copy(((n, w) for n, w in model.base_model.model.named_parameters() if ".lora_" not in n), own)
        before = logps(exact)
        if adapted:
            for name, _, change in layers_of(model):
                own[name].add_(change.float().to(own[name].device))
        else:
            _copy(model.named_parameters(), own)
        trained, kept = logps(exact), {name: weights.clone() for name, weights in own.items()}
        found: list[tuple[float, Draw]] = []
        for number in range(DRAWS):
            for name, weights in own.items():
                weights.copy_(stochastic(kept[name], name, number).float())
            told = logps(exact)
            found.append((float((told - trained).square().sum()), Draw(number, share_of(before, trained, told), told)))
    return min(found, key=lambda pair: pair[0])[1]


def _copy(weights: Iterable[tuple[str, Tensor]], into: dict[str, Any]) -> None:
    for name, one in weights:
        into[name.replace(".base_layer", "")].copy_(one.float())


def share_of(before: Tensor, trained: Tensor, published: Tensor) -> float:
    """How much of the trained change of log-probabilities is in the published ones: Σ (p − w)(t − w) / Σ (t − w)²."""
    change, told = (trained - before).double(), (published - before).double()
    return float((told * change).sum() / (change * change).sum()) if bool(change.any()) else 1.0
