"""Reads and writes YAML, with line numbers: the plain YAML that people expect, not all of YAML 1.1.

`1e-4` is a number; `yes`, `no`, `on`, dates and `1:30` are text; a duplicate key is an error; tags and merge keys are
refused. `dump` writes values that `parse` reads back unchanged; `edited` changes a few of them in place.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from align.errors import ConfigError

Keys = tuple[str | int, ...]
LONGEST, MOST, DEEPEST = 1_000_000, 100_000, 64
"""Limits far above what recipes need: characters that are read, values in them, and the depth of nesting."""

_NULL, _BOOL, _INT, _FLOAT, _TEXT = (f"tag:yaml.org,2002:{tag}" for tag in ("null", "bool", "int", "float", "str"))
_RESOLVERS = (
    (_NULL, r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    (_BOOL, r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    (_INT, r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    (_FLOAT, r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?", list("-+0123456789.")),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FORMS = [(tag, re.compile(pattern), first) for tag, pattern, first in _RESOLVERS]
for _tag, _form, _first in _FORMS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_form.pattern})\Z"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_form.pattern})\Z"), _first)


def parse(text: str, where: str) -> tuple[Any, dict[Keys, int]]:
    """The value of `text`, and the line (from 1) of every key and list item in it; `where` names the source.

    Raises ConfigError with the line for anything that is not plain YAML.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{len(text):,} characters are no recipe; at most {LONGEST:,} are read", where=where)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError(
            f"not YAML that anybody wrote: parts lie more than {DEEPEST} deep in each other", where=where
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"not YAML: {what}", where=f"{where}:{mark.line + 1}" if mark else where) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", where=where) from error
    builder = _Builder(where)
    return (None if node is None else builder.value(node, ())), builder.lines


class _Builder:
    """Turns nodes into values; `lines` is keyed by the path of keys and indices."""

    def __init__(self, where: str) -> None:
        self.where, self.lines, self.open, self.built = where, dict[Keys, int](), set[int](), 0

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        self.built += 1
        if self.built > MOST:
            raise self._error(node, f"this makes more than {MOST:,} values (aliases that stand for aliases)")
        if len(keys) > DEEPEST:
            raise self._error(node, f"parts lie more than {DEEPEST} deep in each other")
        self.lines.setdefault(keys, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self.open:
            raise self._error(node, "this part contains itself (an alias of what it stands in)")
        self.open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            built: Any = [self.value(item, (*keys, n)) for n, item in enumerate(node.value)]
        else:
            built = self._mapping(node, keys)
        self.open.remove(id(node))
        return built

    def _mapping(self, node: yaml.Node, keys: Keys) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag != _TEXT:
                found = key if isinstance(key, str) else "a list or mapping"
                raise self._error(key_node, f"a key must be text, found {found}")
            if key in built:
                first = self.lines[(*keys, key)]
                raise self._error(key_node, f"the key {key!r} stands twice (first in line {first}); keep one")
            self.lines[(*keys, key)] = key_node.start_mark.line + 1
            built[key] = self.value(value_node, (*keys, key))
        return built

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        meant = _TEXT if node.style else next((tag for tag, form, _ in _FORMS if form.fullmatch(text)), _TEXT)
        if node.tag != meant:
            raise self._error(node, f"tags are not for recipes, found {node.tag}")
        if meant == _TEXT:
            return text
        if meant in (_NULL, _BOOL):
            return None if meant == _NULL else text.lower() == "true"
        whole = text.replace("_", "")
        if len(whole) > 300 or not math.isfinite(float(whole)):
            raise self._error(node, f"the number is too large, found {text[:40]}{'…' * (len(text) > 40)}")
        return int(whole) if meant == _INT else float(whole)

    def _error(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(what, where=f"{self.where}:{node.start_mark.line + 1}")


def edited(text: str, changes: Mapping[Keys, Any], where: str) -> str:
    """`text` with other values at some keys; the comments, order and layout of the rest stay the same.

    Missing mappings on the way to a key are created. If the layout cannot be kept (an empty value is in the way), the
    whole text is written again, without comments; the values are right in both cases. Raises ConfigError for a `text`
    that is not plain YAML.
    """
    wanted = parse(text, where)[0] or {}
    for keys, value in changes.items():
        holder = wanted
        for key in keys[:-1]:
            if isinstance(holder, dict) and holder.get(key) is None:
                holder[key] = {}
            holder = holder[key]
        holder[keys[-1]] = value
    kept = text
    for keys, value in changes.items():
        kept = _with_value(kept, keys, value)
    try:
        same = parse(kept, where)[0] == wanted
    except ConfigError:
        same = False
    return kept if same else dump(wanted)


def _with_value(text: str, keys: Keys, value: Any) -> str:
    """`text` with `value` at `keys`, by replacing or inserting that one value."""
    node = yaml.compose(text, Loader=_Loader)
    depth = 0
    while isinstance(node, yaml.CollectionNode) and depth < len(keys):
        inner = _inner(node, keys[depth])
        if inner is None:
            break
        node, depth = inner, depth + 1
    for key in reversed(keys[max(depth + 1, 0) :] if depth < len(keys) else ()):
        value = {key: value}
    if depth == len(keys) and node is not None:
        return text[: node.start_mark.index] + _flow(value) + text[_end(text, node) :]
    if not isinstance(node, yaml.MappingNode) or not node.value:
        return text
    line = f"{keys[depth]}: {_flow(value)}"
    start = node.value[0][0].start_mark
    if node.flow_style:
        return text[: start.index] + line + ", " + text[start.index :]
    return text[: start.index] + line + "\n" + " " * start.column + text[start.index :]


def _inner(node: yaml.CollectionNode, key: str | int) -> yaml.Node | None:
    """The value at a key, or the item at an index; None if there is none."""
    if isinstance(node, yaml.SequenceNode):
        return node.value[key] if isinstance(key, int) and key < len(node.value) else None
    return next((v for k, v in node.value if k.value == key), None)


def _end(text: str, node: yaml.Node) -> int:
    """The end of a value; PyYAML includes the comments and blank lines after a block mapping."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return int(node.end_mark.index)
    return int(node.start_mark.index) + len(text[node.start_mark.index : node.end_mark.index].rstrip())


def _flow(value: Any) -> str:
    """A value on one line."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def dump(value: Any) -> str:
    """`value` (dictionaries, lists, text, numbers, booleans, None) as YAML that `parse` reads back as the same."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text
