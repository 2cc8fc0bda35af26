"""Writes the recipe's reference from its schema: every key once, with its docstring in `align/config`.

    python -m align.config.document > docs/recipe.md

A test runs `markdown()` and compares, so the page cannot drift from the schema.
"""

import ast
import functools
import inspect
import json
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from align.config import base, gate, recipe, rewards, rollouts, section, training
from align.config.base import Section
from align.config.recipe import Recipe
from align.config.schema import keys_of, sections_in, tag_of, takes
from align.config.trainer import OWNED, trl_tables

HEAD = """\
# The recipe

*Made from `align/config/recipe.py` by `python -m align.config.document > docs/recipe.md`; do not edit.*

A recipe is one YAML file. Only `name`, `model`, `prompts` and one of `annotate` and `preferences` are required; every
other key has a default (`kto`, `ppo`, `rloo`, `grpo` and `best_of_n` have other requirements, listed with them).
Relative paths start at the recipe's folder; `~` is the home folder. A key that is not listed here is an error, and the
message suggests the most similar key. A duplicate key and a value out of range are errors too. `1e-4` is a number;
`yes` and `no` are text, so write `true` and `false`. On the command line, `key.key=value` overrides one value, in the
same YAML (`dpo.learning_rate=1e-4`, `annotate.by.personas.0.temperature=0.5`, `sft=null`).
"""

TRAINER = """
## `trainer` in the training sections

Any other option of TRL's trainer, by its own name (checked against trl {trl} and transformers {transformers}); `ppo`
takes the options of GRPO's trainer. The recipe or the stage sets the following options, so they are refused here (`…`
is the section's name):

| option | instead |
|---|---|
"""


def markdown() -> str:
    """The text of docs/recipe.md."""
    parts = [HEAD, _section("", Recipe)]
    parts.append(TRAINER.format(**trl_tables()["versions"]))
    for (way, kinds), options in _owned().items():
        only = f" (in {', '.join(f'`{kind}`' for kind in kinds)})" if len(kinds) < len(OWNED) else ""
        parts.append(
            f"| {', '.join(f'`{option}`' for option in sorted(options))}{only} | {way.format(section='…')} |\n"
        )
    return "".join(parts)


def _owned() -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """(What to do instead, the sections where this applies) → options."""
    ways: dict[tuple[str, str], list[str]] = {}
    for kind, owned in OWNED.items():
        for option, way in owned.items():
            ways.setdefault((option, way), []).append(kind)
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (option, way), kinds in ways.items():
        grouped.setdefault((way, tuple(kinds)), []).append(option)
    return grouped


def _section(path: str, section: type[Section]) -> str:
    """The table of a section, then the tables of the sections in it."""
    lines = ["\n| key | takes | default | |\n|---|---|---|---|\n"]
    inner = ""
    for key, field in keys_of(section).items():
        lines.append(f"| `{key}` | {_cell(takes(field))} | {_default(field)} | {_cell(said_of(section, field))} |\n")
        choices = sections_in(field.annotation)
        for choice in choices:
            name = f"{path}.{key}".lstrip(".")
            tag = f" with `type: {tag_of(choice)}`" if len(choices) > 1 else ""
            inner += f"\n## `{name}`{tag}\n" + _section(name, choice)
    return "".join(lines) + inner


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if isinstance(field.default, Section):
        return "its keys' defaults" if not field.discriminator else f"`type: {tag_of(type(field.default))}`"
    if field.default is None:
        return "none"
    return f"`{json.dumps(field.default)}`" if not isinstance(field.default, str) else f"`{field.default}`"


def said_of(section: type[Section], field: FieldInfo) -> str:
    """The field's docstring in the source, on one line; KeyError if there is none."""
    name = next(name for name, found in section.model_fields.items() if found is field)
    for kind in section.__mro__:
        if (kind.__name__, name) in _docs():
            return _docs()[kind.__name__, name]
    if name == "type":
        return "Selects this form of the section."
    raise KeyError(f"{section.__name__}.{name} has no docstring beneath it")


@functools.cache
def _docs() -> dict[tuple[str, str], str]:
    """(class, field) → the field's docstring in the schema's modules."""
    found = {}
    trees = [
        ast.parse(Path(inspect.getfile(module)).read_text(encoding="utf-8"))
        for module in (base, rewards, training, rollouts, section, gate, recipe)
    ]
    for node in [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]:
        for field, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                assert isinstance(field.target, ast.Name)
                found[node.name, field.target.id] = " ".join(str(below.value.value).split())
    return found


if __name__ == "__main__":
    print(markdown(), end="")
