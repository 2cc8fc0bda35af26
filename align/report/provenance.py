"""Where a run's numbers come from: versions, outside files, the recipe's text without what must not travel."""

import re
from collections import defaultdict
from typing import Any

from align.report.reading import RunFolder
from align.stages.names import BLIND_SNAPSHOT, SNAPSHOT

SECRET_KEY = re.compile(
    r"(?i)^(\s*(?:-\s+)?[\"']?\w*(?:api_?key|secret|passw(?:or)?d|credential|private_key|(?:hub|auth|access|bearer|hf)_token)[\"']?\s*:\s*)(\S.*)$"
)
"""A YAML line whose key names a secret; `api_key_env`, which names an environment variable, is none."""
SECRET_VALUE = re.compile(r"\b(?:hf_|sk-|ghp_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{8,}")
URL_LOGIN = re.compile(r"(\w+://)[^/\s@]+@")
HIDDEN = "[hidden]"


def recipe_text(text: str) -> str:
    """The recipe with every value hidden that looks like a secret; none belongs there, but people make mistakes."""
    lines = (SECRET_KEY.sub(rf"\g<1>{HIDDEN}", line) for line in text.splitlines())
    return "\n".join(URL_LOGIN.sub(rf"\g<1>{HIDDEN}@", SECRET_VALUE.sub(HIDDEN, line)) for line in lines)


def versions(run: RunFolder) -> dict[str, str]:
    """Name → version of what made the valid stages, and the machine; several versions are joined by a comma."""
    seen = _versions_seen(run)
    names = {name: ", ".join(values) for name, values in seen.items()}
    return {**{k: str(v) for k, v in run.environment.items()}, **names}


def changed_versions(run: RunFolder) -> list[str]:
    """A sentence where stages of the run were made by different versions."""
    changed = [f"{name} ({', '.join(values)})" for name, values in _versions_seen(run).items() if len(values) > 1]
    return [f"Stages of this run were made with different versions of {'; '.join(changed)}."] if changed else []


def outside_files(run: RunFolder) -> dict[str, str]:
    """Name → content id of what the run read from outside: prompts, model, demonstrations, judge."""
    files: dict[str, Any] = {}
    for receipt in run.receipts.values():
        # the journal's state is an input from outside too, but of one round, and the receipts have it
        files |= {
            name: value for name, value in receipt.external.items() if receipt.stage not in (SNAPSHOT, BLIND_SNAPSHOT)
        }
    return dict(sorted(files.items()))


def _versions_seen(run: RunFolder) -> dict[str, list[str]]:
    seen: dict[str, list[str]] = defaultdict(list)
    for receipt in run.receipts.values():
        for name, version in receipt.code.items():
            if version not in seen[name]:
                seen[name].append(version)
    return dict(seen)
