"""One section of the recipe alone, for the verbs that do one stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from align.config.problems import dotted, problems
from align.config.recipe import Section
from align.config.yaml_text import parse
from align.errors import ConfigError

Kind = TypeVar("Kind", bound=Section)


def load_section(kind: type[Kind], settings: Sequence[str], **given: Any) -> Kind:
    """A section from `key=value` settings (YAML values); `given` are fields that options of their own set.

    Raises ConfigError for an unknown key, with the nearest right one, or a value out of range.
    """
    values: dict[str, Any] = dict(given)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise ConfigError("a setting reads key=value", where=setting, hint="for example learning_rate=1e-4")
        holder = values
        *outer, last = name.strip().split(".")
        for key in outer:
            holder = holder.setdefault(key, {})
        holder[last] = parse(text, setting)[0]
    try:
        return kind.model_validate(values, by_alias=True, by_name=False, context={"folder": Path.cwd(), "files": True})
    except ValidationError as error:
        found = problems(error, (kind.__name__.lower(),))
        raise ConfigError("\n".join(f"{dotted(keys)}: {what}" for keys, what in found)) from None
