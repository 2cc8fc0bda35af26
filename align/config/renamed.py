"""What a version before December 2026 called the recipe's keys and values: for the runs that it made, and for hints."""

from collections.abc import Mapping
from typing import Any

SECTIONS = {"thumbs": "binary"}
KEYS: dict[str, dict[str, str]] = {
    "dpo": {"noise": "label_noise", "length_alpha": "ld_alpha"},
    "rollouts": {"resample": "max_resamples"},
}
"""Section → what its keys were called → what they are called."""
VALUES: dict[str, dict[str, dict[str, str]]] = {"dpo": {"length": {"desensitised": "ld"}}}
"""Section → key, by its name of today → what its values were called."""


def renamed(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`given` with its `names` changed, in its order."""
    return {names.get(name, name): value for name, value in given.items()}


def renamed_sections(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, or a stage's settings, of which some are sections of a recipe, with the keys and values of today."""
    return {name: renamed_section(name, value) for name, value in renamed(given, SECTIONS).items()}


def renamed_section(name: str, value: Any) -> Any:
    """The section `name` with the keys and values of today; what is no section stays as it is."""
    if not isinstance(value, dict) or name not in KEYS:
        return value
    found = renamed(value, KEYS[name])
    for key, values in VALUES.get(name, {}).items():
        if isinstance(found.get(key), str):
            found[key] = values.get(found[key], found[key])
    return found
