"""Writes the reference in docs/api.md from the public names of `align`, their signatures and their docstrings.

    python -m align.api.document docs/api.md

A test compares `with_reference(page)` with the page, so that it cannot drift from the code.
"""

import inspect
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, is_typeddict

import align
from align.config.base import Section

BEGIN, END = "<!-- reference -->\n", "<!-- end of reference -->\n"
GROUPS = {
    "Recipes": "load_recipe run require_sections Loaded RunResult",
    "Common arguments": "Compute Workspace",
    "Files": "load_prompts load_demonstrations load_preferences load_binary load_candidates Rows Demonstration"
    " held_out_prompts prompts_of_round replayed",
    "Answers": "sample Samples",
    "Labels": "ask load_judgements compile_labels Labelled Imported Labels",
    "Training": "train_sft train_dpo train_kto train_reward train_ppo train_rloo train_grpo train_best_of_n"
    " import_model Trained",
    "Scores and comparisons": "load_scorer evaluate compare_blind Evaluation Estimate",
    "Extension points": "Generator AnnotationBackend Answer MemoryBackend Scorer",
    "Records": "Prompt Message Candidate Task Judgement Preference BinaryLabel Edit Dropped",
    "Errors": "AlignError ConfigError DataError ServiceError StageError",
}
SETTINGS = "sections of a recipe, each with defaults. [recipe.md](recipe.md) describes every key"
_MODULES = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Z])")


def reference() -> str:
    """All public names, grouped by task."""
    parts = []
    for title, names in GROUPS.items():
        parts.append(f"### {title}\n\n" + "\n".join(_entry(name, getattr(align, name)) for name in names.split()))
    sections = sorted(name for name in align.__all__ if _is_section(getattr(align, name)))
    parts.append(f"### Settings\n\n{', '.join(f'`{name}`' for name in sections)}: {SETTINGS}.\n")
    return "\n".join(parts)


def with_reference(page: str) -> str:
    """The page with the current reference."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{reference()}\n{END}{rest.partition(END)[2]}"


def _is_section(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Section)


def _entry(name: str, value: Any) -> str:
    if inspect.isclass(value):
        protocol = bool(getattr(value, "_is_protocol", False))
        said = [f"#### `{name}`\n", _text(value), _fields(value)]
        said += [f"`{name}.{call}` — {text}" for call, text in _methods(value, protocol)]
        return "\n\n".join(part.strip() for part in said if part) + "\n"
    return f"#### `{name}`\n\n```python\n{name}{_signature(value, lines=True)}\n```\n\n{_text(value)}\n"


def _methods(kind: type, protocol: bool) -> list[tuple[str, str]]:
    """The public methods of a class and their docstrings, in the order of its source."""
    own = [base for base in kind.__mro__ if protocol or base is kind] if not issubclass(kind, Exception) else []
    found: dict[str, tuple[str, str]] = {}
    for name, value in (pair for base in reversed(own) for pair in vars(base).items()):
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        is_property = isinstance(value, property)
        shown = f": {_name(inspect.signature(function).return_annotation)}" if is_property else _signature(function)
        found[name] = (f"{name}{shown}", _text(function))
    return list(found.values())


def _fields(kind: Any) -> str:
    """A record's fields, in the order of its constructor."""
    if is_dataclass(kind):
        named = {field.name: field.type for field in fields(kind)}
    else:
        named = dict(inspect.get_annotations(kind)) if hasattr(kind, "_fields") or is_typeddict(kind) else {}
    shown = ", ".join(f"{name}: {_name(annotation)}" for name, annotation in named.items())
    return f"Fields: `{shown}`." if named else ""


def _signature(function: Any, *, lines: bool = False) -> str:
    """The signature as it is called, with names as in `align`."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    shown, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        starred = starred or bool(star)
        shown.append(f"{star}{parameter.name}: {_name(parameter.annotation)}{_default(parameter.default)}")
    result = f" -> {_name(signature.return_annotation)}"
    if lines and sum(map(len, shown)) > 70:
        return "(\n" + "".join(f"    {one},\n" for one in shown) + f"){result}"
    return f"({', '.join(shown)}){result}"


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    if isinstance(value, align.Compute):
        return " = Compute()"
    return " = print" if callable(value) else f" = {value!r}"


def _name(annotation: Any) -> str:
    """A type as written in `align`: without modules."""
    if isinstance(annotation, type) and not isinstance(annotation, UnionType) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return (
        _MODULES.sub("", re.sub(r"\b(?:collections\.abc|typing)\.", "", str(annotation)))
        .replace("NoneType", "None")
        .replace("~", "")
    )


def _text(value: Any) -> str:
    """The docstring, one line for each paragraph."""
    said = inspect.cleandoc(value.__doc__ or "")
    return "\n\n".join(" ".join(part.split()) for part in said.split("\n\n") if ">>>" not in part)


def main(path: Path) -> None:
    path.write_text(with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
