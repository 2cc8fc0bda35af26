"""Candidates from a file: what `align rollout` writes, or answers that somebody else's model gave."""

from pathlib import Path

from align.errors import DataError
from align.store import read_rows
from align.types import Candidate, Prompt, candidate_id, prompt_id


def load_candidates(path: Path) -> tuple[list[Prompt], list[Candidate]]:
    """Rows of `messages` (or `prompt`) and `text`; `checkpoint`, `sample`, `tokens` and `finish` where they are known.

    Raises DataError for a row without them, with its line.
    """
    prompts: dict[str, Prompt] = {}
    candidates = []
    for where, row in read_rows(path):
        messages, text = row.get("messages"), row.get("text")
        if messages is None and isinstance(row.get("prompt"), str):
            messages = [{"role": "user", "content": row["prompt"]}]
        if not isinstance(messages, list) or not messages or not isinstance(text, str):
            raise DataError(f"the row has the fields {sorted(row)}", where=where, hint="a candidate has `messages` (or `prompt`) and `text`")
        if not all(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages):
            raise DataError(f"`messages` is {str(messages)[:60]!r}", where=where, hint="a message is an object with the texts `role` and `content`")
        messages = [{"role": m["role"], "content": m["content"]} for m in messages]
        prompt = prompt_id(messages)
        prompts.setdefault(prompt, Prompt(prompt, messages, "train", where))
        checkpoint = str(row.get("checkpoint", "unknown"))
        identity = candidate_id(prompt, text, checkpoint)
        finish = "length" if row.get("finish") == "length" else "stop"
        candidates.append(Candidate(identity, prompt, text, checkpoint, int(row.get("sample", 0)), int(row.get("tokens", 0)), finish))
    if not candidates:
        raise DataError("the file has no candidates", where=str(path))
    return list(prompts.values()), candidates
