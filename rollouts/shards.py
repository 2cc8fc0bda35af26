"""Shards: Parquet files of raw samples, published whole, so that a killed run goes on with the missing ones."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

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
that encoding the text and decoding it again gives the text, `refused` why it cannot be encoded; `token_ids` and `logprobs` are kept where asked for."""

LOGPROBS = pa.schema(
    [("candidate", pa.string()), ("prompt_id", pa.string()), ("sample", pa.int32()), ("checkpoint", pa.string())]
    + [("token_ids", pa.list_(pa.int32())), ("logprobs", pa.list_(pa.float32()))]
)
"""The side file of candidates: all tokens that were sampled, the stop token too, and for each its natural
log-probability under the checkpoint at temperature 1."""

Row = dict[str, Any]


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def write_shard(file: Path, rows: Sequence[Row]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    write_table(partial, pa.Table.from_pylist(rows, schema=RAW))
    publish(partial, file)


def read_shard(file: Path) -> list[Row]:
    rows: list[Row] = read_table(file).to_pylist()
    return rows


def sampled_rows(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Mapping[str, list[Message]],
    drawn: Iterable[tuple[str, int, float, int, Completion]],
) -> list[Row]:
    """Rows of `RAW` from (prompt id, sample, temperature, redrawn, completion)."""
    from align.text import decode_answer, encode_answered

    rows: list[Row] = []
    said: list[list[int]] = []
    for prompt, sample, temperature, redrawn, done in drawn:
        ids = done.token_ids
        said.append(ids[:-1] if done.finish == "stop" else ids)
        text = decode_answer(tokenizer, said[-1])
        kept = {"token_ids": ids, "logprobs": done.logprobs} if done.logprobs is not None else {}
        rows.append(
            {"prompt_id": prompt, "sample": sample, "temperature": temperature, "redrawn": redrawn,
             "tokens": len(ids), "finish": done.finish, "text": text, **kept}
        )  # fmt: skip
    again = encode_answered(tokenizer, [messages[row["prompt_id"]] for row in rows], [row["text"] for row in rows])
    for row, encoded, own in zip(rows, again, said, strict=True):
        if isinstance(encoded, DataError):
            row |= {"same": False, "refused": encoded.what}
            continue
        written = encoded[1][:-1]
        row["same"] = written == own or decode_answer(tokenizer, written) == row["text"]
    return rows


def candidates_of(rows: Iterable[tuple[str, Row]], keep_all: bool) -> tuple[list[tuple[Candidate, Row]], list[Dropped]]:
    """(checkpoint id, raw sample) as candidates, each with its sample; without `keep_all` only those that people can be
    asked about, each text once for a prompt."""
    kept: list[tuple[Candidate, Row]] = []
    dropped: list[Dropped] = []
    first: dict[tuple[str, str], int] = {}
    for checkpoint, row in rows:
        prompt, sample, text = row["prompt_id"], row["sample"], row["text"]
        reason = None if keep_all else _unfit(row, first.setdefault((prompt, text), sample))
        if reason is not None:
            dropped.append(Dropped("answer", f"prompt {prompt}, sample {sample}", reason))
            continue
        given = {name: row[name] for name in ("tokens", "finish", "temperature", "redrawn")}
        id = candidate_id(prompt, text, checkpoint)
        kept.append((Candidate(id, prompt, text, checkpoint, sample, **given), row))
    return kept, dropped


def write_logprobs(path: Path, kept: Iterable[tuple[Candidate, Row]]) -> None:
    """The side file of candidates that were sampled with their log-probabilities."""
    rows = [
        {"candidate": c.id, "prompt_id": c.prompt_id, "sample": c.sample, "checkpoint": c.checkpoint,
         "token_ids": row["token_ids"], "logprobs": row["logprobs"]}
        for c, row in kept
    ]  # fmt: skip
    write_table(path, pa.Table.from_pylist(rows, schema=LOGPROBS))


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
