"""Drawing one policy's answers, shard by shard, and drawing again what repeats another answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from align.config.base import Sampling
from align.ids import seed_for
from align.normal import normal
from align.types import Message
from rollouts.engine import Completion, Request
from rollouts.mixture import Policy, Source
from rollouts.shards import Row, read_shard, sampled_rows, shard_file, write_shard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Completions = list[list[Completion]]
Ask = Callable[..., Callable[[], Completions]]
"""`Generator.generate`, but for a function that gives the result later."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one policy answers, into which folder.

    `sources` are the policy's, by their number among all; `amounts` has for each prompt id how many answers each of all
    sources gives. `shards` hold the prompts as this policy's tokenizer has them. `before` are the folders of the
    policies that answer before this one: what repeats their answers is drawn again too, `max_resamples` times.
    """

    policy: Policy
    sources: dict[int, Source]
    amounts: Mapping[str, list[int]]
    tokenizer: "PreTrainedTokenizerBase"
    messages: Mapping[str, list[Message]]
    shards: list[list[Request]]
    sampling: Sampling
    seed: int
    max_resamples: int
    folder: Path
    before: list[Path]

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not there."""
        return [n for n in range(len(self.shards)) if not shard_file(self.folder, n).is_file()]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest answer."""
        return max(len(r.token_ids) for requests in self.shards for r in requests) + self.sampling.max_tokens


@dataclass(frozen=True, slots=True)
class _Request:
    """Answers on their way: for each request the (prompt id, sample) of its completions."""

    places: list[list[tuple[str, int]]]
    temperature: float
    redrawn: int
    completions: Callable[[], Completions]


def draw_shards(work: Work, ask: Ask) -> Iterator[int]:
    """Draw the missing shards and publish them; gives each one's number. The next shard is under way while the texts of
    one are made."""
    ahead: tuple[int, list[_Request]] | None = None
    for n in [*work.missing, None]:
        now = (n, _ask_shard(work, n, ask)) if n is not None else None
        if ahead is not None:
            _publish(work, *ahead, ask)
            yield ahead[0]
        ahead = now


def _ask_shard(work: Work, number: int, ask: Ask) -> list[_Request]:
    asked = []
    for k in work.sources:
        by_count: dict[int, list[Request]] = {}
        for request in work.shards[number]:
            by_count.setdefault(work.amounts[request.prompt_id][k], []).append(request)
        for count, requests in sorted(by_count.items()):
            if count:
                firsts = [sum(work.amounts[r.prompt_id][:k]) for r in requests]
                ids = [r.prompt_id for r in requests]
                places = [[(id, first + i) for i in range(count)] for id, first in zip(ids, firsts, strict=True)]
                asked.append(_ask(work, k, requests, places, 0, ask))
    return asked


def _ask(
    work: Work, k: int, requests: Sequence[Request], places: list[list[tuple[str, int]]], redrawn: int, ask: Ask
) -> _Request:
    sampling = work.sampling.model_copy(update={"temperature": work.sources[k].temperature})
    seed = seed_for(work.seed, "source", k) if k else work.seed
    return _Request(places, sampling.temperature, redrawn, ask(requests, sampling, samples=len(places[0]), seed=seed))


def _publish(work: Work, number: int, asked: Sequence[_Request], ask: Ask) -> None:
    prompts = {r.prompt_id: r.token_ids for r in work.shards[number]}
    rows = _rows(work, asked)
    order = {id: place for place, id in enumerate(prompts)}
    rows.sort(key=lambda row: (order[row["prompt_id"]], row["sample"]))
    if work.max_resamples:
        taken = {_seen(r) for f in work.before for r in read_shard(shard_file(f, number))}
        for redrawn in range(1, work.max_resamples + 1):
            again = [place for place in _repeats(rows, taken) if rows[place]["temperature"] > 0]
            if not again:
                break
            _draw_again(work, prompts, rows, again, redrawn, ask)
    write_shard(shard_file(work.folder, number), rows)


def _rows(work: Work, asked: Sequence[_Request]) -> list[Row]:
    drawn = [
        (*place, part.temperature, part.redrawn, completion)
        for part in asked
        for places, several in zip(part.places, part.completions(), strict=True)
        for place, completion in zip(places, several, strict=True)
    ]
    return sampled_rows(work.tokenizer, work.messages, drawn)


def _repeats(rows: Sequence[Row], taken: set[tuple[str, str]]) -> list[int]:
    """Places of the rows whose text an earlier row of the prompt has, or one of `taken`, as people read it."""
    seen, found = set(taken), []
    for place, row in enumerate(rows):
        if _seen(row) in seen:
            found.append(place)
        seen.add(_seen(row))
    return found


def _seen(row: Row) -> tuple[str, str]:
    return row["prompt_id"], normal(row["text"])


def _draw_again(
    work: Work, prompts: Mapping[str, list[int]], rows: list[Row], again: Sequence[int], redrawn: int, ask: Ask
) -> None:
    """Put a new draw in each of the places `again` of `rows`. A request's name is what its seed comes from."""
    by_source: dict[int, list[int]] = {}
    for place in again:
        k = next(k for k, source in work.sources.items() if source.temperature == rows[place]["temperature"])
        by_source.setdefault(k, []).append(place)
    asked = []
    for k, places in by_source.items():
        samples = [(rows[place]["prompt_id"], rows[place]["sample"]) for place in places]
        requests = [Request(f"{id} {sample} {redrawn}", prompts[id]) for id, sample in samples]
        asked.append(_ask(work, k, requests, [[sample] for sample in samples], redrawn, ask))
    new = {(row["prompt_id"], row["sample"]): row for row in _rows(work, asked)}
    for place in again:
        rows[place] = new[rows[place]["prompt_id"], rows[place]["sample"]]
