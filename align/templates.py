"""Chat templates: which one a model has, its variables and its date written into it, so that all who render it agree.

What a template reads beside the messages (`enable_thinking`, `reasoning_effort`, today's date) is written at its head
when a model becomes a checkpoint. So SFT, DPO, rewards, each engine and whatever serves the published folder write the
same prompt, on any day, and the checkpoint's id says with which variables.
"""

import json
import re
from collections.abc import Mapping
from datetime import date as day
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from align.errors import ConfigError

PLAIN = (
    "{{ bos_token if bos_token is defined and bos_token else '' }}"
    "{%- for message in messages %}"
    "{{- '\\n' if not loop.first and message['role'] != 'assistant' else '' }}"
    "{{- message['content'] }}"
    "{{- eos_token if message['role'] == 'assistant' else '' }}"
    "{%- endfor %}"
)
"""For base models: bos if there is one, then the text; an answer goes on where the prompt ended, and ends with eos."""

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' }}"
)

TEMPLATES = {"plain": PLAIN, "chatml": CHATML}
"""Built-in chat templates, by the names that `model.chat_template` takes."""


class Chat(TypedDict, total=False):
    """What a recipe's `model` says about its chat template; the names are those of its keys."""

    chat_template: str | None
    replace_chat_template: bool
    chat_template_kwargs: Mapping[str, Any]
    date: str | None


OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "strftime_now",
                  "raise_exception", "bos_token", "eos_token", "pad_token", "unk_token"})  # fmt: skip
"""What a template is given anyway, so that it is no variable of the recipe's."""
_WHERE, _VARIABLES = "model.chat_template", "model.chat_template_kwargs"
_CLOCK, _PERCENT = "strftime_now", "\ufdd2"  # a Unicode noncharacter stands for the sign itself
_HEAD = re.compile(r"\{# align: \S+ #\}.*?\{# align: end \+#\}", re.DOTALL)
_DIRECTIVES = ("%-d", "%-m", "%-j", "%a", "%A", "%b", "%B", "%d", "%D", "%e", "%F", "%G", "%j", "%m", "%u", "%U", "%V",
               "%w", "%W", "%x", "%y", "%Y", "%H", "%I", "%M", "%p", "%S", "%T", "%X", "%c", "%f", "%z", "%Z", "%n", "%t")  # fmt: skip


def choose(own: str | None, chosen: str | None, *, model: str, replace: bool) -> str:
    """The template to use: the tokenizer's `own`, or the `chosen` one where there is none or `replace` asks for it.

    Raises ConfigError where there is neither, where both differ, and where `replace` has nothing to act on.
    """
    given = _read(chosen) if chosen is not None else None
    if given is None:
        if replace:
            what = "replace_chat_template replaces the tokenizer's chat template, and no other one is named"
            raise ConfigError(what, where=_WHERE, hint="name it in model.chat_template")
        if own is None:
            what = f"the tokenizer of {model!r} has no chat template"
            raise ConfigError(what, where=_WHERE, hint="set model.chat_template: plain, chatml or a Jinja file")
        return own
    if own is not None and given != _bare(own):
        if not replace:
            what = f"the tokenizer of {model!r} has a chat template of its own, and {chosen!r} is another"
            hint = "leave model.chat_template out, or set model.replace_chat_template: true"
            raise ConfigError(what, where=_WHERE, hint=hint)
        return given
    return own if own is not None else given


def _read(name: str) -> str:
    if name in TEMPLATES:
        return TEMPLATES[name]
    file = Path(name)
    if not file.is_file():
        what = f"{name!r} is no built-in chat template and no file"
        raise ConfigError(what, where=_WHERE, hint="use plain, chatml or the path of a Jinja file")
    return file.read_text(encoding="utf-8")


def require_syntax(template: str, name: str) -> None:
    """ConfigError, with the line, for a template that Jinja cannot read."""
    from jinja2 import TemplateSyntaxError

    try:
        _parsed(template)
    except TemplateSyntaxError as error:
        what = f"{name} has a syntax error in line {error.lineno}: {error.message}"
        raise ConfigError(what, where=_WHERE, hint="mend the template") from error


def written_in(template: str, variables: Mapping[str, Any], date: str | None) -> str:
    """The template with its variables, and `date` (ISO) where one is given and it asks for today's, at its head.

    A value that the caller of the template gives itself still counts before these. Raises ConfigError for a variable
    that the template does not read or that everyone gives it. A date that stands there already stays.
    """
    read = sorted(variables_of(template))
    for name in variables:
        if name in OURS or name not in read:
            what = f"the chat template does not read {name!r}"
            raise ConfigError(what, where=_VARIABLES, hint=f"it reads {', '.join(read) or 'no variables'}")
    head = _variables_head(variables) if variables else ""
    head += _date_head(day.fromisoformat(date)) if date is not None and asks_for_the_date(template) else ""
    return head + template


def variables_of(template: str) -> set[str]:
    """The names of what a template reads beside what everyone gives it."""
    from jinja2 import nodes

    tree = _parsed(template)
    names = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    # names that a template only sets, or a loop or a macro binds, are its own; one with a default is set and read
    bound = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
    tested = {test.node.name for test in tree.find_all(nodes.Test)
              if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)}  # fmt: skip
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    return {name for name in names if name not in bound or name in tested} - OURS - macros - _GLOBALS


_GLOBALS = {"range", "dict", "lipsum", "cycler", "joiner", "namespace", "loop", "true", "false", "none"}


def asks_for_the_date(template: str) -> bool:
    """Whether a template writes today's date and has none written in yet."""
    from jinja2 import nodes

    tree = _parsed(template)
    fixed = any(macro.name == _CLOCK for macro in tree.find_all(nodes.Macro))
    return not fixed and any(name.name == _CLOCK for name in tree.find_all(nodes.Name))


def _bare(template: str) -> str:
    """Without what we wrote at its head."""
    return _HEAD.sub("", template)


@lru_cache(maxsize=16)
def _parsed(template: str) -> Any:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template("").environment.parse(template)  # with transformers' own tags


def _variables_head(variables: Mapping[str, Any]) -> str:
    sets = [
        f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in sorted(variables.items())
    ]
    return _head("variables", "".join(sets))


def _literal(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _date_head(date: day) -> str:
    """A macro in the place of transformers' clock: the same directives, of midnight of that day."""
    from datetime import datetime, time

    moment = datetime.combine(date, time())
    pairs = [(directive, moment.strftime(directive)) for directive in _DIRECTIVES]
    pairs = [("%%", _PERCENT), *pairs, (_PERCENT, "%")]
    replaced = "".join(f" | replace({_literal(d)}, {_literal(said)})" for d, said in pairs)
    body = f"{{{{- format{replaced} -}}}}"
    return _head("date", f"{{%- macro {_CLOCK}(format) -%}}{body}{{%- endmacro -%}}")


def _head(what: str, text: str) -> str:
    """Its marks, by which it is found again; the plus keeps Jinja from taking the template's first line end."""
    return f"{{# align: {what} #}}{text}{{# align: end +#}}"
