"""Candidates from a file: what `align rollout` writes, or answers that somebody else's model gave."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from align.data.messages import BadRowError, excerpt, in_full, is_said, prompt_of
from align.data.preferences import GIVEN, is_number
from align.data.rows import Row, lacking, say_ignored
from align.data.tool_messages import calling
from align.errors import DataError
from align.sampled import TOKENS, TOKENS_FILE, read_tokens
from align.store import read_rows
from align.types import SCHEMAS, Candidate, Message, Prompt, candidate_id, prompt_id

KNOWN = {*SCHEMAS[Candidate].names, "score"}
"""What `align rollout` writes."""


def load_candidates(path: Path) -> tuple[list[Prompt], list[Candidate]]:
    """The prompts and answers of a file; ids are made again from content, so they agree with those of a run.

    A row has `messages` (or another form of prompt) and `text`, which may be empty, and `tool_calls` where it calls; `checkpoint` is "given", `sample`
    and `tokens` are 0 and `finish` is "stop" where it has none. Raises DataError with the line of a row that is not so.
    """
    prompts: dict[str, Prompt] = {}
    candidates = []
    ignored: Counter[str] = Counter()
    for where, fields in read_rows(path):
        row = Row(fields)
        try:
            messages, candidate = _candidate(row)
        except BadRowError as bad:
            raise DataError(str(bad), where=where, hint="docs/files.md lists the forms") from None
        prompts.setdefault(candidate.prompt_id, Prompt(candidate.prompt_id, messages, "train", where))
        candidates.append(candidate)
        ignored.update(name for name in row.ignored() if name not in KNOWN)
    if not candidates:
        raise DataError("the file has no rows", where=str(path))
    say_ignored(path, ignored, len(candidates))
    return list(prompts.values()), candidates


def load_tokens(folder: Path) -> pa.Table:
    """What the answers in a folder of `align rollout` were sampled as (`align.sampled.TOKENS`), by the ids that these
    answers have in files of pairs and binary labels. Raises DataError where the folder has no tokens."""
    tokens = read_tokens([folder])
    if tokens is None:
        raise DataError(
            f"there is no {TOKENS_FILE}", where=str(folder), hint="name a folder that `align rollout` wrote"
        )
    given = {c.id: candidate_id(c.prompt_id, c.text, GIVEN) for c in load_candidates(folder / "candidates.jsonl")[1]}
    names = pa.array([given.get(name) for name in tokens["candidate"].to_pylist()], pa.string())
    named = tokens.set_column(0, TOKENS.field(0), names)
    return named.filter(pc.is_valid(named["candidate"]))


def tokens_below(folder: Path) -> pa.Table:
    """Likewise of every folder of sampled answers that is `folder` or lies in it, by the answers' own ids too."""
    below = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    found = [place for place in below if (place / TOKENS_FILE).is_file() and (place / "candidates.jsonl").is_file()]
    own = read_tokens(found)
    return pa.concat_tables([*([own] if own is not None else []), *map(load_tokens, found or [folder])])


def _candidate(row: dict[str, Any]) -> tuple[list[Message], Candidate]:
    messages = prompt_of(row, ("messages", "prompt", "conversations", "instruction"))
    text, checkpoint, finish = row.get("text"), row.get("checkpoint", "given"), row.get("finish", "stop")
    if messages is None or text is None:
        raise lacking(row, "`messages` (or `prompt`) and `text`")
    if not isinstance(text, str) or not isinstance(checkpoint, str):
        raise BadRowError("not text", f"`text` is {excerpt(text)} and `checkpoint` {excerpt(checkpoint)}")
    if finish not in ("stop", "length"):
        raise BadRowError("unknown finish", f"`finish` is {excerpt(finish)}, not stop or length")
    if is_said(row.get("tool_calls")):
        text = calling(text, row["tool_calls"], "tool_calls")
    messages = in_full(row, messages)
    prompt = prompt_id(messages)
    identity = candidate_id(prompt, text, checkpoint)
    sample, tokens = _count(row, "sample"), _count(row, "tokens")
    return messages, Candidate(identity, prompt, text, checkpoint, sample, tokens, finish)


def _count(row: dict[str, Any], field: str) -> int:
    value = row.get(field, 0)
    if not is_number(value) or value != int(value) or not 0 <= value < 2**31:
        raise BadRowError("not a count", f"`{field}` is {excerpt(value)}")
    return int(value)
