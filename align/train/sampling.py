"""Answers of every length from a transformers model: finished ones leave the batch, waiting prompts enter it.

A row of the batch is an answer under way. Rows share one column of the key-value cache at a time, so that no padding
is computed: a prompt enters with its last token in the newest column, and the newest row takes the place of one that
ends. The token t of answer i is drawn by the random number (i, t), whatever stands beside it. Imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

ROWS = 256
"""Most answers under way at once."""
CACHE_BYTES = 2 << 30
"""Most memory for the cache, where that holds one answer at all."""
PREFILL_TOKENS = 8192
"""Most prompt tokens that enter at once, padding included."""
ENTER_SHARE = 8
"""Prompts enter when 1/8 of the rows are free: one forward pass for several is cheaper than one for each."""
WORTH_WAKING = 6_000_000
"""Multiplications of a layer's product on a CPU from which on more threads than one are faster. They sleep between
products (`align.train`), and waking them takes as long as a small product: a step of a small model is up to four times
faster without them."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """An answer's tokens, its stop token included, and the log-probability of each at the sampling temperature, in
    nats.

    With top_p below 1 the log-probabilities are those of the whole distribution, as a trainer computes them.
    """

    token_ids: list[int]
    logps: list[float]


def can_sample(model: Any) -> bool:
    """Whether `sample` can do this model: full attention in every layer that takes a mask from outside."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    attention = getattr(config, "_attn_implementation", None)
    return (
        kinds == {"full_attention"}
        and not sliding
        and not getattr(model, "_is_stateful", False)
        and not getattr(model.config, "is_encoder_decoder", False)
        and attention in ("sdpa", "eager")
    )


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Sequence[int],
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    before: int = 0,
    rows: int | None = None,
) -> list[Sampled]:
    """One answer to each prompt, given as token ids. The same seed gives the same answers on the same machine.

    `temperature` is over 0, `top_p` in (0, 1]; `before` are the answers that other processes give before these, so that
    all draw what one would; `rows` is how many answers are under way at once (as many as fit).
    """
    batch = _Batch(
        model, prompts, stops, max_tokens, (seed, before), rows or _rows_that_fit(model, prompts, max_tokens)
    )
    threads, weights = torch.get_num_threads(), _weights_of_a_product(model)
    try:
        while batch.size or batch.waiting:
            if batch.may_enter():
                torch.set_num_threads(threads)
                first, logits_RV = batch.enter()
            else:
                torch.set_num_threads(threads if batch.size * weights >= WORTH_WAKING else 1)
                first, logits_RV = 0, batch.step()
            batch.take(first, *_draw(logits_RV, batch.numbers(first), temperature, top_p))
    finally:
        torch.set_num_threads(threads)
    return batch.answers()


def _weights_of_a_product(model: Any) -> float:
    """How many weights a layer's product has on average."""
    sizes = [layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    return sum(sizes) / max(1, len(sizes))


def _draw(logits_RV: Tensor, numbers_R: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens by inverting the distribution function at `numbers_R` in [0, 1), and their log-probabilities."""
    logps_RV = (logits_RV.float() / temperature).log_softmax(-1)
    shares_RV = logps_RV.exp()
    if top_p < 1:
        shares_RV = _nucleus(shares_RV, top_p)
    heights_RV = shares_RV.cumsum(-1)
    tokens_R1 = torch.searchsorted(heights_RV, numbers_R[:, None] * heights_RV[:, -1:], right=True)
    # Rounding may lead behind the last token that has any probability.
    last_R1 = (heights_RV < heights_RV[:, -1:]).sum(-1, keepdim=True)
    tokens_R1 = tokens_R1.minimum(last_R1)
    return tokens_R1[:, 0], logps_RV.gather(1, tokens_R1)[:, 0]


def _nucleus(shares_RV: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens that together reach `top_p`, the others at 0 (Holtzman et al. 2020)."""
    sorted_RV, order_RV = shares_RV.sort(-1, descending=True)
    out_RV = sorted_RV.cumsum(-1) - sorted_RV >= top_p
    return shares_RV.masked_fill(torch.zeros_like(out_RV).scatter(1, order_RV, out_RV), 0)


def _rows_that_fit(model: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    columns = _columns(prompts, max_tokens)
    one = config.num_hidden_layers * 2 * heads * head_dim * columns * model.dtype.itemsize
    return max(1, min(ROWS, len(prompts), CACHE_BYTES // one))


def _columns(prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
    """The cache is as wide as the longest prompt and two answers, so that it is moved to the left but seldom."""
    return max(map(len, prompts)) + 2 * max_tokens


class _Batch:
    """The rows under way. `size` of them are live, in the first places of every array."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        stops: Sequence[int],
        max_tokens: int,
        draw: tuple[int, int],
        rows: int,
    ) -> None:
        self.model, self.prompts, self.rows, self.max_tokens = model, prompts, rows, max_tokens
        self.device = model.device
        self.stops = torch.tensor(list(stops), device=self.device)
        # what a mixture of experts balances in training, it stumbles on here
        experts = hasattr(model.config.get_text_config(), "output_router_logits")
        self.quiet = {"output_router_logits": False} if experts else {}
        seed, before = draw
        draws = torch.Generator().manual_seed(seed)
        numbers = torch.rand(before + len(prompts), max_tokens, generator=draws, dtype=torch.float64)
        self.uniform = numbers[before:].float().to(self.device)
        self.tokens = torch.zeros(len(prompts), max_tokens, dtype=torch.long, device=self.device)
        self.logps = torch.zeros(len(prompts), max_tokens, device=self.device)
        self.lengths = torch.zeros(len(prompts), dtype=torch.long, device=self.device)
        self.waiting = len(prompts)
        self.size = 0
        self.answer, self.start, self.newest = (torch.zeros(rows, dtype=torch.long, device=self.device) for _ in "123")
        self.cache = _Columns(rows, _columns(prompts, max_tokens), longest=max(map(len, prompts)))

    def may_enter(self) -> bool:
        free = self.rows - self.size
        return bool(self.waiting) and (not self.size or free >= max(1, self.rows // ENTER_SHARE))

    def enter(self) -> tuple[int, Tensor]:
        """Let prompts in; returns the first of their rows, and the logits of their answers' first tokens."""
        first, number = self.size, len(self.prompts) - self.waiting
        asked = [list(self.prompts[number])]
        while len(asked) < min(self.rows - first, self.waiting):
            following = list(self.prompts[number + len(asked)])
            if max(len(following), *map(len, asked)) * (len(asked) + 1) > PREFILL_TOKENS:
                break
            asked.append(following)
        self.size, self.waiting = first + len(asked), self.waiting - len(asked)
        here = slice(first, self.size)
        lengths = torch.tensor([len(ids) for ids in asked], device=self.device)
        self.answer[here] = torch.arange(number, number + len(asked), device=self.device)
        self.start[here] = self.cache.column - lengths
        return first, self._prefill(asked, here)

    def _prefill(self, asked: list[list[int]], here: slice) -> Tensor:
        """The same prompt asked several times in a row is computed once."""
        distinct = list(dict.fromkeys(map(tuple, asked)))
        place = {ids: i for i, ids in enumerate(distinct)}
        of_row = torch.tensor([place[tuple(ids)] for ids in asked], device=self.device)
        width = max(map(len, distinct))
        ids = torch.tensor([[ids[0]] * (width - len(ids)) + list(ids) for ids in distinct], device=self.device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in distinct], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1,
            **self.quiet,
        ).logits[:, -1]  # fmt: skip
        self.cache.put(here, cache, of_row)
        return logits[of_row]

    def step(self) -> Tensor:
        """One more column: the logits of every live row's next token."""
        self.cache.make_room(self.start[: self.size])
        self.cache.begin(self.size, int(self.start[: self.size].min()))
        columns = torch.arange(self.cache.first, self.cache.column + 1, device=self.device)
        seen_R11C = (columns >= self.start[: self.size, None])[:, None, None]
        if self.model.config.get_text_config()._attn_implementation == "eager":
            least = torch.finfo(self.model.dtype).min
            seen_R11C = torch.zeros_like(seen_R11C, dtype=self.model.dtype).masked_fill(~seen_R11C, least)
        logits = self.model(
            input_ids=self.newest[: self.size, None],
            position_ids=(self.cache.column - self.start[: self.size])[:, None],
            attention_mask=seen_R11C, past_key_values=self.cache, use_cache=True, **self.quiet,
        ).logits[:, -1]  # fmt: skip
        self.cache.column += 1
        return logits

    def numbers(self, first: int) -> Tensor:
        """The random number of each next token."""
        answer = self.answer[first : self.size]
        return self.uniform[answer, self.lengths[answer]]

    def take(self, first: int, tokens_R: Tensor, logps_R: Tensor) -> None:
        """Note the newest tokens of the rows from `first` on; rows that end give their place to others."""
        answer = self.answer[first : self.size]
        at = self.lengths[answer]
        self.tokens[answer, at], self.logps[answer, at] = tokens_R, logps_R
        self.lengths[answer] = at + 1
        self.newest[first : self.size] = tokens_R
        ended = torch.isin(tokens_R, self.stops) | (at + 1 == self.max_tokens)
        if bool(ended.any()):
            live = torch.ones(self.size, dtype=torch.bool, device=self.device)
            live[first:] = ~ended
            self._close_gaps(live)

    def _close_gaps(self, live: Tensor) -> None:
        """Move the last live rows into the places of those that ended."""
        kept = int(live.sum())
        gaps = (~live[:kept]).nonzero()[:, 0]
        movers = live[kept:].nonzero()[:, 0] + kept
        for array in (self.answer, self.start, self.newest):
            array[gaps] = array[movers]
        self.cache.move(movers, gaps)
        self.size = kept

    def answers(self) -> list[Sampled]:
        lengths = self.lengths.tolist()
        return [
            Sampled(ids[:n], logps[:n])
            for n, ids, logps in zip(lengths, self.tokens.tolist(), self.logps.tolist(), strict=True)
        ]


class _Columns(Cache):  # type: ignore[misc]
    """Keys and values of all rows in place: rows [0, size), columns [first, column) are what attention sees."""

    def __init__(self, rows: int, columns: int, *, longest: int) -> None:
        super().__init__(layers=[])
        self.rows, self.columns, self.longest = rows, columns, longest
        self.size, self.first, self.column = 0, 0, longest

    def begin(self, size: int, first: int) -> None:
        self.size, self.first = size, first

    def put(self, here: slice, cache: Any, of_row: Tensor) -> None:
        """Take a prompt's keys and values so that its last token stands before the next column."""
        for index, given in enumerate(cache.layers):
            if index == len(self.layers):
                self.layers.append(_Layer(self, given.keys, given.values))
            layer = self.layers[index]
            place = slice(self.column - given.keys.size(2), self.column)
            layer.keys[here, :, place] = given.keys[of_row]
            layer.values[here, :, place] = given.values[of_row]

    def move(self, source: Tensor, target: Tensor) -> None:
        if len(source):
            for layer in self.layers:
                layer.keys[target] = layer.keys[source]
                layer.values[target] = layer.values[source]

    def make_room(self, start: Tensor) -> None:
        """Where no column is free, move the live rows and their starts to the left; the longest prompt stays in
        reach."""
        if self.column < self.columns:
            return
        by = min(int(start.min()), self.column - self.longest)
        for layer in self.layers:
            for kept in (layer.keys, layer.values):
                kept[:, :, : self.column - by] = kept[:, :, by : self.column].clone()
        start -= by
        self.column -= by


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    is_sliding = False

    def __init__(self, room: _Columns, *like: Tensor) -> None:
        """`like` are a prompt's keys and values, whose heads may differ in size."""
        super().__init__()
        self.room = room
        self.keys, self.values = (x.new_zeros((room.rows, x.size(1), room.columns, x.size(3))) for x in like)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the prompts came first."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        room = self.room
        new, seen = slice(room.column, room.column + 1), slice(room.first, room.column + 1)
        self.keys[: room.size, :, new] = key_states
        self.values[: room.size, :, new] = value_states
        return self.keys[: room.size, :, seen], self.values[: room.size, :, seen]

    def get_seq_length(self) -> int:
        return self.room.column - self.room.first

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.room.columns
