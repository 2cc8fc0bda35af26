"""Paths in a recipe: relative paths start at the recipe's folder, and a missing file is reported before any work.

The loader passes the folder as validation context. Without it (a recipe built in Python), relative paths stay as they
are and start at the working directory, as usual in Python.
"""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

TEMPLATES = ("plain", "chatml")
STRATEGIES = ("ddp", "fsdp2", "zero3")
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_FUNCTION = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def _at(value: str | Path, info: ValidationInfo) -> Path:
    """`value` relative to the recipe's folder, absolute, with `~` expanded; unchanged if the folder is unknown."""
    path = Path(value).expanduser()
    return Path(os.path.normpath(info.context["folder"] / path)) if info.context else path


def _checked(info: ValidationInfo) -> bool:
    """Whether files must exist: when a recipe is loaded for a run."""
    return bool(info.context and info.context["files"])


def _file(value: Path, info: ValidationInfo) -> Path:
    path = _at(value, info)
    if _checked(info) and not path.is_file():
        raise ValueError(f"there is no file {path}" + (" (it is a folder)" if path.is_dir() else _maker(path)))
    return path


def _maker(path: Path) -> str:
    """How to make the files that a recipe with a `world.py` has in its `data/`."""
    world = path.parent.parent / "world.py"
    return f"; make it with `python {world}`" if path.parent.name == "data" and world.is_file() else ""


def _function(value: str, info: ValidationInfo) -> str:
    match = _FUNCTION.fullmatch(value)
    if not match:
        raise ValueError(f"must read file.py:function, found {value!r}")
    return f"{_file(Path(match[1]), info)}:{match[2]}"


def _template(value: str, info: ValidationInfo) -> str:
    return _named_or_file(value, info, TEMPLATES, "a Jinja file")


def _strategy(value: str, info: ValidationInfo) -> str:
    return _named_or_file(value, info, STRATEGIES, "a file of `accelerate config`")


def _named_or_file(value: str, info: ValidationInfo, names: tuple[str, ...], kind: str) -> str:
    if value in names:
        return value
    path = _at(value, info)
    if _checked(info) and not path.is_file():
        raise ValueError(f"must be {' or '.join(names)} or {kind}, and there is no file {path}")
    return str(path)


def _model(value: str, info: ValidationInfo) -> str:
    """A folder if one exists or if the text can only be a path; otherwise a Hub id."""
    path = _at(value, info)
    if path.is_dir():
        if _checked(info) and not (path / "config.json").is_file():
            adapter = (path / "adapter_config.json").is_file()
            what = (
                "holds a LoRA adapter alone; merge it into its model first"
                if adapter
                else "holds no config.json, so it is no model"
            )
            raise ValueError(f"the folder {path} {what}")
        return str(path)
    if value.startswith(("/", ".", "~")) or value.endswith("/") or value.count("/") > 1 or "\\" in value:
        if _checked(info):
            raise ValueError(f"there is no folder {path}" + _maker(path))
        return str(path)
    if not _HUB_ID.fullmatch(value):
        raise ValueError(f"must be a folder or a Hub id such as owner/name, found {value!r}")
    return value


File = Annotated[Path, AfterValidator(_file)]
Folder = Annotated[Path, AfterValidator(_at)]
Function = Annotated[str, AfterValidator(_function)]
Template = Annotated[str, AfterValidator(_template)]
Strategy = Annotated[str, AfterValidator(_strategy)]
ModelPath = Annotated[str, AfterValidator(_model)]
