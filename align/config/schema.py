"""Reads the recipe's schema: the keys of a section, and what a key takes, in words. For error messages and the docs."""

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic.fields import FieldInfo

from align.config.base import Section
from align.config.recipe import Recipe

Keys = tuple[str | int, ...]

_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    dict: "a mapping",
}
_ABOVE = {"gt": "above {}", "ge": "at least {}"}
_BELOW = {"lt": "below {}", "le": "at most {}"}


def keys_of(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a section as written in YAML."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that an annotation names, through unions, lists and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in sections_in(part)]


def tag_of(section: type[Section]) -> str:
    """The value of `type:` that selects this section."""
    return str(typing.get_args(section.model_fields["type"].annotation)[0])


class Place(NamedTuple):
    """Where pydantic's `loc` points: the keys in the YAML, the section that has the last key, and its field."""

    keys: Keys
    section: type[Section]
    field: FieldInfo | None


def place(loc: Keys, root: type[Section]) -> Place:
    """Follow `loc` from `root`; the tags of selected sections and of unions in it are not keys of the YAML."""
    parts, keys = list(loc), list[str | int]()
    section, inner = root, [root]
    field: FieldInfo | None = None
    while parts:
        part = parts.pop(0)
        if isinstance(part, int):
            keys.append(part)
            if field is not None and parts and chosen_by_type(field, inside=True):
                inner = [choice for choice in inner if tag_of(choice) == parts[0]]
                parts.pop(0)
            continue
        if not inner:
            break
        section, field = inner[0], keys_of(inner[0]).get(part)
        keys.append(part)
        inner = sections_in(field.annotation) if field else []
        if field is not None and field.discriminator and parts:
            tag = parts.pop(0)
            inner = [choice for choice in inner if tag_of(choice) == tag]
    return Place(tuple(keys), section, field)


def chosen_by_type(field: FieldInfo, *, inside: bool) -> bool:
    """Whether `type:` chooses among the sections that a key takes; with `inside`, those of its list."""
    if not inside:
        return field.discriminator is not None
    if typing.get_origin(field.annotation) is not list:
        return False
    (item,) = typing.get_args(field.annotation)
    return any(getattr(part, "discriminator", None) for part in typing.get_args(item)[1:])


def example(root: type[Section], name: str = "") -> str:
    """An example of a valid setting of `root`, as key=value: the key `name` with its default, else another key."""
    keys: Keys = tuple(int(part) if part.isdigit() else part for part in name.strip(" -:").split("."))
    found = place(keys, root)
    if found.keys == keys and found.field is not None and (value := plain_default(found.field)) is not None:
        return f"{name.strip(' -:')}={value}"
    return next(
        f"{key}={value}"
        for key, field in keys_of(root).items()
        if (value := plain_default(field)) is not None and isinstance(field.default, int | float)
    )


def plain_default(field: FieldInfo) -> str | None:
    """A key's default as written in YAML; None if it has none, or if it is a section."""
    if isinstance(field.default, str):
        return field.default
    return json.dumps(field.default) if isinstance(field.default, bool | int | float | list | dict) else None


def every_key() -> Iterator[tuple[str, str]]:
    """All keys of the schema as (dotted path of the section, key)."""

    def walk(section: type[Section], prefix: str) -> Iterator[tuple[str, str]]:
        for key, field in keys_of(section).items():
            yield prefix, key
            for inner in sections_in(field.annotation):
                yield from walk(inner, f"{prefix}.{key}".lstrip("."))

    return walk(Recipe, "")


def takes(field: FieldInfo) -> str:
    """What a key takes, in words: kind and range, such as "a number above 0 and at most 1" or "auto, vllm or none"."""
    if field.discriminator or chosen_by_type(field, inside=True):
        tags = [tag_of(choice) for choice in sections_in(field.annotation)]
        optional = type(None) in typing.get_args(field.annotation)
        what = "a section" if field.discriminator else "a list of sections, each"
        return f"{what} with `type:` {_either(tags)}" + (" (or null)" if optional else "")
    return _kind(field.annotation, field.metadata)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(args[0], [*_flat(args[1:]), *metadata])
    if origin is Literal:
        return _either([str(value) for value in args])
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(part, metadata) for part in args if part is not type(None)]
        return _either([*kinds, "null"] if type(None) in args else kinds)
    if origin is list:
        return "a list of " + ("sections" if sections_in(args[0]) else _kind(args[0], []))
    if sections_in(annotation):
        return "a section of keys"
    return " ".join([_WORDS.get(origin or annotation, "a value"), _range(metadata)]).strip()


def _flat(metadata: typing.Iterable[Any]) -> list[Any]:
    return [item for entry in metadata for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _range(metadata: list[Any]) -> str:
    """ "above 0 and at most 1" from the constraints of a field."""
    words = []
    for forms in (_ABOVE, _BELOW):
        words += [form.format(getattr(m, name)) for m in metadata for name, form in forms.items() if hasattr(m, name)]
    patterns = [str(m.pattern) for m in metadata if getattr(m, "pattern", None)]
    return " and ".join(words) + "".join(f"that matches {pattern}" for pattern in patterns)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
