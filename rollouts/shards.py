"""Shards: Parquet files of raw samples, published whole, so that a killed run goes on with the missing ones."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.errors import DataError
from align.store import publish, read_table, write_table
from align.turns import split_thoughts
from align.types import Candidate, Dropped, Message, candidate_id
from rollouts.engine import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMPTY = "empty answer"
LOSSY = "the tokenizer cannot reproduce the answer"

RAW = pa.schema(
    [("prompt_id", pa.string()), ("sample", pa.int32()), ("temperature", pa.float64()), ("redrawn", pa.int32())]
    + [("tokens", pa.int32()), ("finish", pa.string()), ("text", pa.string()), ("same", pa.bool_())]
    + [("refused", pa.string())]
    + [("token_ids", pa.list_(pa.int32())), ("logprobs", pa.list_(pa.float32()))]
)
"""A shard's columns. `redrawn` counts the draws that were thrown away because they repeated another sample; `same` says
that encoding the text and decoding it again gives the text, `refused` why it cannot be encoded; `logprobs` are kept
where asked for, and `token_ids` in all but shards that an earlier version left."""
_HEAVY = ("token_ids", "logprobs")

SAMPLED = pa.schema(
    [("candidate", pa.string()), ("prompt_id", pa.string()), ("sample", pa.int32()), ("checkpoint", pa.string())]
    + [("tokenizer", pa.string()), ("token_ids", pa.list_(pa.int32())), ("logprobs", pa.list_(pa.float32()))]
)
"""The side file of candidates, `align.sampled.TOKENS` and more: all tokens that were sampled, the stop token too, and
where asked for the natural log-probability of each under the checkpoint at temperature 1, else null."""

Row = dict[str, Any]


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def write_shard(file: Path, rows: Sequence[Row]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    write_table(partial, pa.Table.from_pylist(rows, schema=RAW))
    publish(partial, file)


def read_shard(file: Path) -> list[Row]:
    """A shard's rows without tokens and log-probabilities, which are many and go from file to file in Arrow."""
    rows: list[Row] = read_table(file, columns=[name for name in RAW.names if name not in _HEAVY]).to_pylist()
    return rows


def sampled_rows(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Mapping[str, list[Message]],
    drawn: Iterable[tuple[str, int, float, int, Completion]],
) -> list[Row]:
    """Rows of `RAW` from (prompt id, sample, temperature, redrawn, completion)."""
    from align.sampled_calls import read_answer
    from align.text import encode_answered

    rows: list[Row] = []
    said: list[list[int]] = []
    for prompt, sample, temperature, redrawn, done in drawn:
        ids = done.token_ids
        said.append(ids[:-1] if done.finish == "stop" else ids)
        text = read_answer(tokenizer, messages[prompt], said[-1])
        rows.append(
            {"prompt_id": prompt, "sample": sample, "temperature": temperature, "redrawn": redrawn,
             "tokens": len(ids), "finish": done.finish, "text": text, "token_ids": ids, "logprobs": done.logprobs}
        )  # fmt: skip
    again = encode_answered(tokenizer, [messages[row["prompt_id"]] for row in rows], [row["text"] for row in rows])
    for row, encoded, own in zip(rows, again, said, strict=True):
        if isinstance(encoded, DataError):
            row |= {"same": False, "refused": encoded.what}
            continue
        written = encoded[1][:-1]
        asked = messages[row["prompt_id"]]
        row["same"] = written == own or read_answer(tokenizer, asked, written) == row["text"]
    return rows


def candidates_of(rows: Iterable[tuple[str, Row]], keep_all: bool) -> tuple[list[Candidate], list[Dropped]]:
    """(checkpoint id, raw sample) as candidates; without `keep_all` only those that people can be asked about, each
    text once for a prompt."""
    kept: list[Candidate] = []
    dropped: list[Dropped] = []
    first: dict[tuple[str, str], int] = {}
    for checkpoint, row in rows:
        prompt, sample, text = row["prompt_id"], row["sample"], row["text"]
        reason = None if keep_all else _unfit(row, first.setdefault((prompt, text), sample))
        if reason is not None:
            dropped.append(Dropped("answer", f"prompt {prompt}, sample {sample}", reason))
            continue
        given = {name: row[name] for name in ("tokens", "finish", "temperature", "redrawn")}
        kept.append(Candidate(candidate_id(prompt, text, checkpoint), prompt, text, checkpoint, sample, **given))
    return kept, dropped


def write_sampled(path: Path, kept: Sequence[Candidate], shards: Iterable[tuple[str, Path]]) -> None:
    """The side file of candidates, in their order, from (tokenizer id, shard). A sample without tokens is left out."""
    place = {(c.prompt_id, c.sample): n for n, c in enumerate(kept)}
    tables, order = [SAMPLED.empty_table()], list[int]()
    for tokenizer, shard in shards:
        drawn = read_table(shard, columns=["prompt_id", "sample", *_HEAVY])
        drawn = drawn.filter(pc.is_valid(drawn["token_ids"]))
        names = zip(drawn["prompt_id"].to_pylist(), drawn["sample"].to_pylist(), strict=True)
        rows, places = [], []
        for row, name in enumerate(names):
            if name in place:
                rows.append(row)
                places.append(place[name])
        drawn = drawn.take(pa.array(rows, pa.int64()))
        of_candidates = {
            "candidate": [kept[n].id for n in places],
            "checkpoint": [kept[n].checkpoint for n in places],
            "tokenizer": [tokenizer] * len(places),
        }
        columns = [of_candidates[name] if name in of_candidates else drawn[name] for name in SAMPLED.names]
        tables.append(pa.table(columns, schema=SAMPLED))
        order += places
    write_table(path, pa.concat_tables(tables).take(pa.array(np.argsort(order), pa.int64())))


def _unfit(row: Row, first: int) -> str | None:
    """Why people are not asked about a sample; `first` is the earliest sample with the same text."""
    if not split_thoughts(row["text"])[1].strip():
        return EMPTY
    if not row["same"]:
        return row["refused"] or LOSSY
    if first == row["sample"]:
        return None
    times = f", also after {row['redrawn']} more draws" if row["redrawn"] else ""
    return f"the same answer as sample {first}{times}"
