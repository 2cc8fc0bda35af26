"""Scores of many answers: shard by shard, each kept by content, so that nobody scores an answer twice.

A shard is a table of answers with their scores, in the order in which they are asked for, so that answers to one prompt
stay together; batches are made by length within it. It is published whole. Which answers share a shard depends on the
answers asked for alone, and those of a shard that no other shard has are scored together; so a call that is
killed and repeated goes on with the missing shards and gives the same bits as one that is not.

Scores are kept by reward model, number type and engine in a folder of the user's, `scores_folder`, and found again by
later rounds and other runs. A row there is a hash of prompt and answer, and numbers: no text. Whoever removes the
folder loses the time to score again and nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from align.errors import ConfigError
from align.ids import content_id
from align.progress import Progress
from align.store import checkpoint_id, disk_errors, publish, read_table, remove_damaged, remove_folder, write_table
from align.types import Message, messages_id
from reward.classifier import require_head
from reward.load import Engine, resolve_engine
from reward.members import member_count
from reward.model import ModelEngine, ModelScorer
from reward.scorer import scores_in
from rollouts.engine import weight_bytes

SHARD = 1024
"""Answers in a table."""
WORTH_VLLM = 4e10
"""Bytes of weights times answers from which on vLLM is the sooner one, its start, taken for ten seconds, included."""
ROWS = pa.schema([("answer", pa.string()), ("scores", pa.list_(pa.float32())), ("reason", pa.string())])
"""A shard's columns: `answer_id`, and either all the numbers that there are for the answer or why there is none."""

Row = list[float] | str
"""An answer's score, or one for each member of an ensemble; or the reason why there is none."""


class KeptScorer:
    """A Scorer made of a reward model's folder, whose scores are kept on disk.

    For callers with many answers at once. The model is loaded when an answer has to be scored, and only then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engine: Engine = "auto",
        dtype: str,
        threads: int | None,
        cache: Path | None = None,
        shard: int = SHARD,
        bound: float = 0.0,
        progress: Progress | None = None,
    ) -> None:
        """`auto` is `engine_for`. `cache` is `scores_folder()` where not given, `shard` answers per table. `bound` acts
        on an ensemble: its score is the members' mean less `bound` standard deviations. `progress` is told (answers
        done, answers in all).

        Raises ConfigError where `folder` is no reward model, `bound` has no ensemble to act on, or `engine` is not
        installed.
        """
        resolve_engine(engine)
        self._folder, self._engine, self._dtype, self._threads = folder, engine, dtype, threads
        require_head(folder)
        if bound and member_count(folder) == 1:
            raise ConfigError(f"{str(folder)!r} is no ensemble, on which alone a bound acts", where="reward.bound")
        self.model_id = checkpoint_id(folder)
        self._cache, self._shard, self._bound = cache or scores_folder(), shard, bound
        self._tell = progress or (lambda done, total: None)

    @property
    def id(self) -> str:
        """As that of the model's own scorer."""
        return content_id([self.model_id, self._bound]) if self._bound else self.model_id

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        """As `Scorer.score`; None for what `explain` has a reason for."""
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score, or the reason why there is none, as `ModelScorer.explain` gives it."""
        return [row if isinstance(row, str) else self._score(row) for row in self.outputs(prompts, answers)]

    def close(self) -> None:
        """It holds nothing: the model goes at the end of each call."""

    def outputs(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[Row]:
        """For each answer all the numbers that the model has for it, or the reason why it has none."""
        ids = answer_ids(prompts, answers)
        places: dict[str, int] = {}
        for place, id in enumerate(ids):
            places.setdefault(id, place)  # an answer that comes twice is scored once
        engine = engine_for(self._folder, len(places)) if self._engine == "auto" else self._engine
        try:
            values = self._by_shards(engine, prompts, answers, places)
        except ConfigError as refusal:
            if self._engine != "auto" or engine == "transformers":
                raise
            print(f"{refusal}; scoring with transformers", file=sys.stderr)
            values = self._by_shards("transformers", prompts, answers, places)
        return [values[id] for id in ids]

    def _by_shards(
        self, engine: ModelEngine, prompts: Sequence[list[Message]], answers: Sequence[str], places: dict[str, int]
    ) -> dict[str, Row]:
        """What the model has for the answers at `places`, by id; those that no shard has are scored, and kept."""
        kept, order = self._cache / self.model_id / f"{engine}-{self._dtype}", list(places)
        shards = [order[start : start + self._shard] for start in range(0, len(order), self._shard)]
        paths = [kept / f"{content_id(shard)}.parquet" for shard in shards]
        with disk_errors(kept):
            kept.mkdir(parents=True, exist_ok=True)
            os.utime(kept.parent)  # when this model's scores were last asked for
            _remove_leftovers(kept)
            remove_damaged(kept, ROWS)
        missing = [n for n, path in enumerate(paths) if not path.is_file()]
        known = _known(kept, paths, {id for n in missing for id in shards[n]})
        done = len(order) - sum(len(shards[n]) for n in missing)
        self._tell(done, len(order))
        with self._model(engine) as read:
            for n in missing:
                new = [id for id in shards[n] if id not in known]
                rows = read([prompts[places[id]] for id in new], [answers[places[id]] for id in new])
                read_now = dict(zip(new, rows, strict=True))
                _write(paths[n], {id: read_now[id] if id in read_now else known[id] for id in shards[n]})
                done += len(shards[n])
                self._tell(done, len(order))
        return _read(paths)

    @contextmanager
    def _model(self, engine: ModelEngine) -> Iterator[Callable[[Sequence[list[Message]], Sequence[str]], list[Row]]]:
        """The model's `outputs`. It is loaded when the first answers are there, and goes at the end."""
        loaded: list[ModelScorer] = []

        def read(prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[Row]:
            if not answers:
                return []
            if not loaded:
                loaded.append(ModelScorer(self._folder, engine=engine, dtype=self._dtype, threads=self._threads))
            return loaded[0].outputs(prompts, answers)

        try:
            yield read
        finally:
            for model in loaded:
                model.close()

    def _score(self, row: list[float]) -> float:
        if len(row) == 1:
            return row[0]
        from reward.ensemble import lower_bound

        return lower_bound(row, self._bound)


def engine_for(folder: Path, answers: int) -> ModelEngine:
    """The engine that scores so many answers sooner: vLLM where it is installed and the work is worth its start.

    On a GPU, where neither was measured, transformers.
    """
    import torch

    if weight_bytes(folder) * answers < WORTH_VLLM or torch.cuda.is_available():
        return "transformers"
    return "vllm" if importlib.util.find_spec("vllm") is not None else "transformers"


_MODEL = re.compile("[0-9a-f]{32}")


def scores_folder() -> Path:
    """Where scores are kept: `scores` in `$ALIGN_CACHE`, by default in `~/.cache/align` (`$XDG_CACHE_HOME/align`)."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ALIGN_CACHE") or caches / "align") / "scores"


@dataclass(frozen=True, slots=True)
class KeptModel:
    """The kept scores of one reward model; `days` since they were last asked for."""

    folder: Path
    bytes: int
    days: float


def kept_models(cache: Path | None, *, unused_days: float) -> list[KeptModel]:
    """The reward models in `cache` (`scores_folder()` where None) whose scores nobody has asked for in that time."""
    found = []
    for folder in sorted((cache or scores_folder()).glob("*/")):
        if folder.is_symlink() or not _MODEL.fullmatch(folder.name):
            continue  # not ours: `--cache` may name any folder
        days = (time.time() - folder.stat().st_mtime) / 86_400
        if days >= unused_days:
            found.append(KeptModel(folder, sum(p.stat().st_size for p in folder.rglob("*.parquet")), max(0.0, days)))
    return found


def remove_kept(folders: Iterable[Path]) -> None:
    """Remove kept scores; whoever asks for them again has them scored again."""
    for folder in folders:
        remove_folder(folder)


def answer_ids(prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[str]:
    """Content ids of prompt and answer."""
    known: dict[tuple[tuple[str, str], ...], str] = {}
    found = []
    for messages, answer in zip(prompts, answers, strict=True):
        key = tuple((m["role"], m["content"]) for m in messages)
        if key not in known:
            known[key] = messages_id(messages)
        found.append(content_id([known[key], answer]))
    return found


def _known(folder: Path, own: Sequence[Path], wanted: set[str]) -> dict[str, Row]:
    """What the shards of other calls have of the answers `wanted`."""
    if not wanted:
        return {}
    found = _read(path for path in sorted(folder.glob("*.parquet")) if path not in own)
    return {id: found[id] for id in wanted & found.keys()}


def _read(paths: Iterable[Path]) -> dict[str, Row]:
    values: dict[str, Row] = {}
    for path in paths:
        table = read_table(path).to_pydict()
        for id, scores, reason in zip(table["answer"], table["scores"], table["reason"], strict=True):
            values[id] = scores if reason is None else reason
    return values


def _write(path: Path, rows: dict[str, Row]) -> None:
    columns = {
        "answer": list(rows),
        "scores": [None if isinstance(row, str) else row for row in rows.values()],
        "reason": [row if isinstance(row, str) else None for row in rows.values()],
    }
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial")
    write_table(partial, pa.table(columns, schema=ROWS))
    publish(partial, path)


def _remove_leftovers(folder: Path) -> None:
    """Parts of shards whose writer was killed."""
    for partial in folder.glob(".*.partial"):
        if not _lives(int(partial.name.split(".")[-2])):
            partial.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
