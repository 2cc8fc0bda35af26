"""Content ids: the same thing has the same id everywhere, so doing it twice is doing it once."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ID_BYTES = 16


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; NaN and infinity are refused (ValueError), for they have no JSON form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_id(value: object) -> str:
    """blake2b of the canonical JSON of `value`: 32 hexadecimal digits."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=ID_BYTES).hexdigest()


def with_check(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record with `check`, the content id of all the rest, by which `is_whole` finds damage."""
    rest = {name: given for name, given in value.items() if name != "check"}
    return {**rest, "check": content_id(rest)}


def is_whole(value: Mapping[str, Any]) -> bool:
    """Whether a record is as `with_check` made it. One without a check is of a version that wrote none, and taken for
    it."""
    return value.get("check", "") in ("", with_check(value)["check"])


ADAPTER_CONFIG = "adapter_config.json"
_BASE = re.compile(rb'("base_model_name_or_path": )"(?:[^"\\]|\\.)*"')
"""Where PEFT looks for what a LoRA adapter stands on: mostly a path of this machine, which is no content."""


def bytes_id(content: bytes) -> str:
    """blake2b of bytes: 32 hexadecimal digits. That of a file's content is its `file_id`."""
    return hashlib.blake2b(content, digest_size=ID_BYTES).hexdigest()


def file_id(path: Path) -> str:
    """blake2b of a file's bytes, of an adapter's config without where its base lies: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    if path.name == ADAPTER_CONFIG:
        return bytes_id(_BASE.sub(rb"\1null", path.read_bytes()))
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def seed_for(*parts: object) -> int:
    """A 63-bit seed that depends on all `parts` and on nothing else (not on PYTHONHASHSEED, not on order of calls)."""
    return int(content_id([str(p) for p in parts])[:16], 16) >> 1


def unit_for(*parts: object) -> float:
    """A number in [0, 1) that depends on all `parts` and on nothing else; for hash splits and seeded choices."""
    return (seed_for(*parts) >> 10) / 2**53  # 53 bits: more would round up to 1.0
