"""Verbs that take settings as key=value. `--help` lists the settings with their defaults; a setting that is given as an
option gets an error that shows how to write it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from typer.core import TyperCommand

from align.errors import AlignError, ConfigError

MODEL_OPTIONS = {
    "model.path": "--model",
    "model.revision": "--revision",
    "model.chat_template_kwargs": "--chat-template-kwargs",
    "model.replace_chat_template": "--replace-chat-template",
    "model.chat_template": "--chat-template",
    "model.dtype": "--dtype",
    "model.date": "--date",
}
"""Keys of a recipe → the options that verbs of one stage have instead; a longer key before one that it begins with."""


def with_options(options: Mapping[str, str]) -> type[TyperCommand]:
    """The command class whose errors name its `options` instead of a recipe's keys."""

    def named(text: str | None) -> str | None:
        if text is None:
            return None
        for key, option in options.items():
            text = text.replace(f"{key}: true", option).replace(f"{key}: ", f"{option} ").replace(key, option)
        return text

    class Command(TyperCommand):
        def invoke(self, ctx: Any) -> Any:
            try:
                return super().invoke(ctx)
            except AlignError as error:
                error.where, error.hint = named(error.where), named(error.hint)
                raise

    return Command


def with_settings(
    section: Callable[[], Any],
    *,
    keys: tuple[str, ...] = (),
    left_out: Collection[str] = (),
    options: Mapping[str, str] = MODEL_OPTIONS,
) -> type[TyperCommand]:
    """The command class whose settings are the keys of `section` (loaded when it is needed), except those `left_out`.
    `--help` lists the settings of a section that a recipe has at `keys`, but not those of a whole recipe. Messages
    about keys outside the section name the `options` that the verb has instead."""
    without = f", without {', '.join(f'`{key}`' for key in left_out)}" if left_out else ""
    place = f"[`{'.'.join(keys)}`](recipe.md#{''.join(keys)})"

    class Command(with_options(options)):  # type: ignore[misc]
        settings = f"the keys of {place}{without}" if keys else None

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            given = list(args)
            try:
                return super().parse_args(ctx, args)
            except Exception as error:
                name = getattr(error, "option_name", None)
                if name is not None and (meant := _as_setting(section(), name, given)) is not None:
                    what = f"{name} is a setting, not an option"
                    raise ConfigError(what, where=ctx.command_path, hint=f"write {meant}") from None
                raise

        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            if keys:
                with formatter.section("Settings (key=value, with their defaults)"):
                    formatter.write_dl(described(section(), left_out))
            super().format_epilog(ctx, formatter)

    return Command


def described(section: Any, left_out: Collection[str] = ()) -> list[tuple[str, str]]:
    """The settings of a section as (`key=default`, description), from the same schema as docs/recipe.md."""
    from align.config.document import said_of
    from align.config.schema import keys_of, plain_default, sections_in, takes

    rows = []
    for key, field in keys_of(section).items():
        if key in left_out:
            continue
        if (default := plain_default(field)) is not None:
            shown = f"{key}={default}"
        else:
            shown = f"{key} ({takes(field)})"
            if inner := sections_in(field.annotation):
                shown = f"{key} ({', '.join(f'{key}.{name}' for name in keys_of(inner[0]))})"
        rows.append((shown, said_of(section, field)))
    return rows


def _as_setting(section: Any, option: str, args: list[str]) -> str | None:
    """How to write `--beta 0.1` as a setting; None if there is no such setting."""
    from align.config.problems import renamed
    from align.config.schema import example

    key = renamed(section, option.lstrip("-").replace("-", "_"))
    if key is None:
        return None
    for place, word in enumerate(args):
        if word.startswith(f"{option}="):
            return f"{key}={word.partition('=')[2]}"
        if word == option and place + 1 < len(args) and not args[place + 1].startswith("--"):
            return f"{key}={args[place + 1]}"
    return example(section, key)
