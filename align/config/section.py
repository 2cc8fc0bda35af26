"""One section of the recipe alone, for the verbs that do one stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.config.load import Kind, Places, set_value, validated


def load_section(kind: type[Kind], settings: Sequence[str], **given: Any) -> Kind:
    """A section from `key=value` settings (YAML values); `given` are fields that options of their own set.

    Relative paths start at the working directory. Raises ConfigError for an unknown key, with the nearest right one,
    or a value out of range.
    """
    data: dict[str, Any] = dict(given)
    places: Places = {(): (kind.__name__.lower(), 0)}
    for setting in settings:
        set_value(data, places, setting, "setting")
    return validated(kind, data, places, Path.cwd(), True)
