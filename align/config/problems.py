"""The problems of a recipe, one sentence for each: the key, the value found and what is expected."""

from typing import Any

from pydantic import ValidationError

from align.config.base import Section
from align.config.recipe import Recipe
from align.config.renamed import KEYS, SECTIONS
from align.config.schema import Keys, Place, every_key, keys_of, place, sections_in, tag_of, takes
from align.config.trainer import TrainerError, in_trainer, nearest

Problem = tuple[Keys, str]
OTHER_NAMES = {
    "lr": ("learning_rate",),
    "num_epochs": ("epochs",),
    "n_epochs": ("epochs",),
    "bs": ("batch_size",),
    "max_length": ("max_tokens",),
    "label_smoothing": ("label_noise",),
    "num_generations": ("samples",),
} | {old: (new,) for names in (SECTIONS, *KEYS.values()) for old, new in names.items()}
"""Names that other libraries and earlier versions use for a key → its names here."""
OPTIONS = (
    "model", "revision", "chat_template", "replace_chat_template", "chat_template_kwargs", "date", "dtype", "seed",
    "threads", "nproc", "accelerate", "reward", "out",
)  # fmt: skip
"""Options of verbs for one stage, for which a recipe has keys outside the section."""


def problems(error: ValidationError, root: type[Section]) -> list[Problem]:
    """The problems that pydantic found in a `root`, in its order: the keys that lead to each, and a sentence."""
    found: list[Problem] = []
    for entry in error.errors(include_url=False):
        spot = place(tuple(entry["loc"]), root)
        cause = entry.get("ctx", {}).get("error")
        if isinstance(cause, TrainerError):
            found += [((*spot.keys, key), what) for key, what in cause.problems(dotted(spot.keys[:-1]))]
        else:
            found.append((spot.keys, _sentence(entry["type"], spot, entry["input"], cause, root)))
    return list(dict.fromkeys(found))


def dotted(keys: Keys) -> str:
    """`("annotate", "by", "personas", 0, "name")` as `annotate.by.personas.0.name`."""
    return ".".join(str(key) for key in keys)


def _sentence(kind: str, spot: Place, value: Any, cause: object, root: type[Section]) -> str:
    if kind == "extra_forbidden":
        return _unknown(spot, root)
    if kind == "missing":
        return "this key is required" + (f" ({takes(spot.field)})" if spot.field else "")
    if kind == "union_tag_not_found":
        assert spot.field
        one = takes(spot.field).replace("a list of sections, each", "a section")
        return f"must be {one if isinstance(spot.keys[-1], int) else takes(spot.field)}, found {shown(value)}"
    if kind == "union_tag_invalid":
        assert spot.field
        tags = [tag_of(choice) for choice in sections_in(spot.field.annotation)]
        close = nearest(str(value["type"]), tags)
        return f"there is no type {value['type']!r}; " + (
            f"did you mean {close}?" if close else f"use {' or '.join(tags)}"
        )
    if cause is not None:
        return str(cause)
    if kind == "literal_error" and isinstance(value, str) and spot.field:
        close = nearest(value, takes(spot.field).replace(",", "").split())
        return f"must be {takes(spot.field)}, found {value!r}" + (f"; did you mean {close}?" if close else "")
    expected = takes(spot.field) if spot.field and not isinstance(spot.keys[-1], int) else "of another kind"
    return f"must be {expected}, found {shown(value)}"


def _unknown(spot: Place, root: type[Section]) -> str:
    """A sentence about a key that a section does not have, with a suggestion from here, `trainer` or the whole
    recipe."""
    key, known = str(spot.keys[-1]), keys_of(spot.section)
    if close := renamed(spot.section, key) or nearest(key, known):
        return f"unknown key; did you mean {close}?"
    if (kind := getattr(spot.section, "kind", None)) is not None and (
        way := in_trainer(kind, key, dotted(spot.keys[:-1]))
    ) is not None:
        return f"unknown key; {way}"
    if root is not Recipe and key in OPTIONS:
        return f"this is no setting here, but an option: --{key.replace('_', '-')}"
    elsewhere: list[str] = []
    for meant in (key, *OTHER_NAMES.get(key, ())):
        elsewhere += sorted({f"{section}.{name}".lstrip(".") for section, name in every_key() if name == meant})
    if root is not Recipe or not elsewhere:
        return f"unknown key; the keys here are {', '.join(known)}"
    if len(elsewhere) > 3:
        it = "it" if elsewhere[0].endswith(f".{key}") else OTHER_NAMES[key][0]
        return f"unknown key here; the sections that have {it} are {', '.join(n.rpartition('.')[0] for n in elsewhere)}"
    return f"unknown key here; did you mean {' or '.join(elsewhere)}?"


def renamed(section: type[Section], name: str) -> str | None:
    """The key of a section for `name`, which may be dotted or another library's name; None if there is none."""
    keys: Keys = tuple(int(part) if part.isdigit() else part for part in name.split("."))
    found = place(keys, section)
    if found.keys == keys and found.field is not None:
        return name
    return next((other for other in OTHER_NAMES.get(name, ()) if other in keys_of(section)), None)


def shown(value: Any) -> str:
    """A value as YAML, shortened if it is long."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else repr(value)
    text = str(text)
    return text if len(text) <= 60 else text[:57] + "…"
