"""What was trained arrives in what is published: weights are rounded to bfloat16 at random, and the change is measured.

A step of 1e-6 is far smaller than half a step of bfloat16, so that rounding to the nearest gives the parent's weights
back: 99% of the trained change is gone. Rounded up with the probability that the remainder says, each weight is the
trained one on average (stochastic rounding; Gupta et al. 2015), and over many weights the change arrives. It takes no
disk and no memory beside, and what vLLM serves, the next round starts from and the reference is are the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import StageError
from align.ids import seed_for
from align.layerwise import Fill, Stored, empty_model, given, stored_parts

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 0.9
"""The share of the trained change that has to be in what is published."""
SURE_DEVIATIONS = 4.0
MEASURED_BYTES = 2 << 30
"""Models with fewer bytes of float32 weights have their change of log-probabilities measured too, which takes ten
passes through the weights."""
SLICE = 1 << 18
"""Weights that are rounded or measured at a time, for each takes some hundred bytes while it is."""
DRAWS = 8
_LOW_BITS = 16
"""Those that bfloat16 cuts off a float32."""


@dataclass(slots=True)
class Arrived:
    """Sums over weights, w being the parent's, t the trained one and p the published one: of (p − w)(t − w), of (t −
    w)², and the variance of the first under stochastic rounding."""

    arrived: float = 0.0
    trained: float = 0.0
    variance: float = 0.0

    def add(self, parent: Tensor, trained: Tensor, published: Tensor) -> None:
        three = (one.detach().flatten().split(SLICE) for one in (parent, trained, published))
        for before, exact, kept in zip(*three, strict=True):
            w, t, p = before.cpu().double(), exact.cpu().double(), kept.cpu().double()
            change, remainder = t - w, (p - t).abs()
            self.arrived += float(((p - w) * change).sum())
            self.trained += float((change * change).sum())
            self.variance += float(
                (change**2 * remainder * (_step(exact.cpu()).double() - remainder).clamp(min=0)).sum()
            )

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

    The draws depend on the name, the number of the `draw` and the weights' own bytes: the same training publishes the
    same bytes, and another round draws again. Numbers that bfloat16 has stay as they are.
    """
    import torch

    flat = weights.detach().contiguous().view(-1)
    words = (part.float().view(torch.int32).sum(dtype=torch.int64) for part in flat.split(SLICE))
    generator = torch.Generator().manual_seed(seed_for("rounding", name, draw, sum(int(word) for word in words)))
    rounded = torch.empty_like(flat, dtype=torch.bfloat16)
    for part, into in zip(flat.split(SLICE), rounded.split(SLICE), strict=True):
        exact = part.float()
        bits = exact.view(torch.int32)
        drawn = torch.randint(0, 1 << _LOW_BITS, bits.shape, generator=generator, dtype=torch.int32).to(bits.device)
        up = ((bits + drawn) & -(1 << _LOW_BITS)).view(torch.float32)
        into.copy_(torch.where(exact.isfinite(), up, exact))
    return rounded.view(weights.shape)


def _step(weights: Tensor) -> Tensor:
    """The distance between the two bfloat16 numbers around each float32."""
    import torch

    bits = weights.detach().float().contiguous().view(torch.int32)
    low = bits & -(1 << _LOW_BITS)
    return ((low + (1 << _LOW_BITS)).view(torch.float32) - low.view(torch.float32)).abs()


def rounded_in_place(model: Any, source: Path, draw: int = 0) -> Arrived:
    """Round a trained model's float32 weights, one tensor at a time; what they were is read from `source`, part by
    part."""
    import torch

    found, left = Arrived(), {n: w for n, w in model.named_parameters() if w.dtype == torch.float32}
    with torch.no_grad():
        for part in stored_parts(source, "float32") if left else ():
            for name, before in part.items():
                if name in left and left[name].shape == before.shape:
                    weights = left.pop(name)
                    kept = stochastic(weights, name, draw)
                    found.add(before, weights, kept)
                    weights.data = kept
        for name, weights in left.items():  # a head that the source does not have
            weights.data = stochastic(weights, name, draw)
    return found


def merged_in_place(model: Any, draw: int = 0) -> tuple[Any, Arrived]:
    """A LoRA model without its adapter, which was added to each layer in float32 and rounded there; and what
    arrived."""
    import torch

    found = Arrived()
    with torch.no_grad():
        for name, base, change in layers_of(model):
            exact = base.data.float() + change.float()
            kept = stochastic(exact, name, draw) if base.dtype == torch.bfloat16 else exact.to(base.dtype)
            if base.dtype == torch.bfloat16:
                found.add(base.data, exact, kept)
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


Logps = Callable[[Fill], "Tensor"]
"""Log-probabilities under the weights that a fill gives to a model."""
Weights = Callable[[str], "Tensor | None"]
"""A weight in float32 by its name; None for a name that none has."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A draw of the rounding, by its number, the share of the trained change of log-probabilities that it keeps, and
    the numbers that the published folder has to give again."""

    number: int
    share: float
    told: Tensor


def best_draw(model: Any, source: Path, logps: Logps) -> Draw | None:
    """Of `DRAWS` the one whose log-probabilities are nearest to those of the trained float32 weights.

    Of a model with few weights a single draw may be as loud as a short training. `logps` is to compute in float32, for
    bfloat16's arithmetic is much coarser than a round's change; it gets each part's weights when it comes to it, so
    that nothing is copied as a whole where the model can be read by layers (`align.layerwise.Filled`). None for a model
    that is too large for ten passes: there a draw is quiet, as its noise falls with the root of the number of weights.
    """
    import torch

    if sum(weights.numel() for weights in model.parameters()) * 4 > MEASURED_BYTES:
        return None
    bare = model.base_model.model if _is_lora(model) else model
    stored = bare.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in bare.named_buffers() if name in stored}

    def under(weights: Weights) -> Tensor:
        return logps(given(lambda name: buffers[name] if name in buffers else weights(name)))

    exact = _trained_weights(model)
    with torch.no_grad():
        if _is_lora(model):  # its base may have been rounded when it was loaded
            before = under(_trained_weights(model, adapted=False))
        else:
            before = logps(Stored(source, empty_model(source, "float32")))
        trained = under(exact)
        found: list[tuple[float, Draw]] = []
        for number in range(DRAWS):
            told = under(_rounded(exact, number))
            found.append((float((told - trained).square().sum()), Draw(number, share_of(before, trained, told), told)))
    return min(found, key=lambda pair: pair[0])[1]


def _rounded(exact: Weights, draw: int) -> Weights:
    def rounded(name: str) -> Tensor | None:
        weights = exact(name)
        return None if weights is None else stochastic(weights, name, draw).float()

    return rounded


def _trained_weights(model: Any, *, adapted: bool = True) -> Weights:
    """A trained model's weights in float32 by the names that they have without an adapter, and with what it adds to
    them where they are `adapted`; None for other names."""
    if not _is_lora(model):
        own, layers = dict(model.named_parameters()), dict[str, Any]()
    else:
        named = model.base_model.model.named_parameters()
        own = {name.replace(".base_layer", ""): weights for name, weights in named if ".lora_" not in name}
        layers = {f"{name}.weight": layer for name, layer in lora_layers(model).items()} if adapted else {}

    def exact(name: str) -> Tensor | None:
        if name not in own:
            return None
        weights: Tensor = own[name].detach().float()
        if name in layers:
            for adapter in layers[name].active_adapters:
                weights = weights + layers[name].get_delta_weight(adapter).float()
        return weights

    return exact


def _is_lora(model: Any) -> bool:
    return hasattr(model, "peft_config")


def share_of(before: Tensor, trained: Tensor, published: Tensor) -> float:
    """How much of the trained change of log-probabilities is in the published ones: Σ (p − w)(t − w) / Σ (t − w)²."""
    change, told = (trained - before).double(), (published - before).double()
    return float((told * change).sum() / (change * change).sum()) if bool(change.any()) else 1.0
