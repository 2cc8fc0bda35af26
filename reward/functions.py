"""The one hook for code of the user's own: a scoring function named as `file.py:function` in the recipe.

def score(messages, answer):      # messages: [{"role": "user", "content": "…"}, …]; answer: text
    return 1.0                    # higher is better; None says that this answer cannot be scored
"""

import ast
import difflib
import importlib.util
import inspect
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from align.errors import ConfigError, DataError
from align.ids import content_id, file_id
from align.types import Message, prompt_id

SHOWN = 200
"""Characters of a user's exception message that are passed on."""


@dataclass(frozen=True, slots=True)
class ScoringFunction:
    """A user's function, checked at every call. `id` changes with its name and its code (see `function_id`)."""

    spec: str
    id: str
    path: Path
    function: Callable[[list[Message], str], Any]

    def __call__(self, messages: list[Message], answer: str) -> float | None:
        """The score, a finite float, or None where the function gives None.

        Raises DataError, naming the prompt, where the function raises, wants to end the program, or returns anything
        else. It gets copies, so that what it changes stays with it.
        """
        try:
            value = self.function([{**message} for message in messages], answer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            what = f"{self.spec} raised {_describe(error)} for prompt {prompt_id(messages)}"
            raise DataError(what, where=_place(error, self.path), hint="mend the function") from error
        if value is None:
            return None
        number = _finite(value)
        if number is None:
            raise DataError(
                f"{self.spec} returned {type(value).__name__} {_shown(value)} for prompt {prompt_id(messages)}",
                hint="return a finite number, or None for an answer that cannot be scored",
            )
        return number


def _finite(value: Any) -> float | None:
    """A number as a finite float; None for anything else, and for one that is too large for a float."""
    if not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError, TypeError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    """The beginning of a value; an integer of thousands of digits, and an object of the user's, may have no text."""
    try:
        return repr(str(value)[:40])
    except Exception:  # noqa: BLE001 - whatever a user's own class does
        return "that cannot be shown"


@dataclass(frozen=True, slots=True)
class FunctionScorer:
    """A Scorer made of one function."""

    function: ScoringFunction

    @property
    def id(self) -> str:
        return self.function.id

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return [self.function(messages, answer) for messages, answer in zip(prompts, answers, strict=True)]

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score, or that the function gave none."""
        none = f"{self.function.spec.rpartition('/')[2]} gave None"
        return [none if value is None else value for value in self.score(prompts, answers)]

    def close(self) -> None:
        """It holds nothing."""


def load_function(spec: str, base: Path) -> ScoringFunction:
    """The function that `spec` (`file.py:name`) names; a relative file starts at `base`.

    While it loads, its folder comes first on `sys.path`, and a neighbour that it imports stands for any other module of
    that name, this project's among them; afterwards all is as it was. So imports of neighbours belong at its top.
    Raises ConfigError where the file or the function is missing, the file does not load or imports a neighbour later,
    or the function cannot be called with (messages, answer).
    """
    path, name = _parse(spec, base)
    identity = function_id(spec, base)
    module = _load(path, identity, [file for file in _files(path) if file != path])
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        found = "is no function" if hasattr(module, name) else "is not there"
        raise ConfigError(f"{name!r} {found}", where=str(path), hint=_nearest(name, names, "functions"))
    _check_arity(function, spec)
    return ScoringFunction(spec, identity, path, function)


def in_memory(function: Callable[[list[Message], str], Any]) -> ScoringFunction:
    """A function of (messages, answer) that a program hands over, as one of a file.

    Its id changes with its code, its defaults and what it closes over, not with what it reads or calls elsewhere.
    Raises ConfigError for what is no function written in Python, and for one that takes other arguments.
    """
    spec = getattr(function, "__qualname__", type(function).__name__)
    if not inspect.isfunction(function):
        hint = "write it as def score(messages, answer), or give a Scorer"
        raise ConfigError(f"{spec} is no function written in Python", where="scorer", hint=hint)
    _check_arity(function, spec)
    closed = [repr(cell.cell_contents) for cell in function.__closure__ or ()]
    identity = content_id(["function", spec, _code(function.__code__), repr(function.__defaults__), closed])
    return ScoringFunction(spec, identity, Path(function.__code__.co_filename), function)


def _code(code: CodeType) -> list[Any]:
    """What a function's compiled code consists of; the functions inside it likewise."""
    inner = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), inner]


def function_id(spec: str, base: Path) -> str:
    """Content id of a scoring function: its name, its file, and the neighbouring files that it imports.

    Nothing is run. Neighbours are found by reading the import statements, theirs included; what a function reads
    or imports in another way is not covered. Raises ConfigError for a missing or unreadable file.
    """
    path, name = _parse(spec, base)
    files = {file.relative_to(path.parent).as_posix(): file_id(file) for file in _files(path)}
    return content_id(["function", path.name, name, files])


def _files(path: Path) -> list[Path]:
    """`path` and the neighbouring files that it imports, theirs included."""
    found: list[Path] = []
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.append(file)
            waiting += _neighbours(file, path.parent)
    return found


def _parse(spec: str, base: Path) -> tuple[Path, str]:
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ConfigError(f"{spec!r} does not name a function", hint="write it as file.py:function")
    path = (base / file).resolve()
    if not path.is_file():
        names = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ConfigError(f"there is no file {path}", where=spec, hint=_nearest(path.name, names, "files"))
    return path, name


def _neighbours(file: Path, folder: Path) -> Iterator[Path]:
    """Files below `folder` that the imports of `file` name."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ConfigError(f"this is not Python: {error}", where=f"{file}:{line}" if line else str(file)) from error
    for node in ast.walk(tree):
        yield from _imported(node, file, folder)


def _imported(node: ast.AST, file: Path, folder: Path) -> Iterator[Path]:
    """Files below `folder` that one statement of `file` imports; none where it is no import."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""] + [f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names]
    for name in filter(None, names):
        for root in {folder, file.parent}:
            stem = root.joinpath(*name.split("."))
            yield from (p for p in (stem.with_name(stem.name + ".py"), stem / "__init__.py") if p.is_file())


def _require_imported_at_top(file: Path, folder: Path) -> None:
    """ConfigError where a function of `file` imports a neighbour when it is called: it would not be found then, or
    another module of that name would."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    inside = (node for f in ast.walk(ast.parse(file.read_bytes())) if isinstance(f, functions) for node in ast.walk(f))
    for node in inside:
        if found := next(_imported(node, file, folder), None):
            raise ConfigError(
                f"a function imports {found.relative_to(folder)} when it is called, and its folder is not on the path then",
                where=f"{file}:{getattr(node, 'lineno', 0)}",
                hint="import it at the top of the file, or give it another name if an installed package is meant",
            )


def _load(path: Path, identity: str, neighbours: Sequence[Path]) -> ModuleType:
    """The module of the file `path`, under a name of its own so that two files of one name do not meet."""
    for file in (path, *neighbours):
        _require_imported_at_top(file, path.parent)
    name = f"_align_function_{identity}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ConfigError("this file cannot be loaded as Python", where=str(path), hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Compiled here and not by the loader: its cache of bytecode takes a file changed within one second for the old one.
    code = compile(path.read_bytes(), str(path), "exec")
    names = {file.relative_to(path.parent).parts[0].removesuffix(".py") for file in neighbours}
    with _importing_from(path.parent, names):
        sys.modules[name] = module  # dataclasses and pickle look a class's module up here
        try:
            exec(code, vars(module))  # the user asked for this file to be run
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            hint = "it must load without arguments and side effects; guard a script with `if __name__ == '__main__'`"
            raise ConfigError(f"loading it raised {_describe(error)}", where=_place(error, path), hint=hint) from error
    return module


@contextmanager
def _importing_from(folder: Path, names: set[str]) -> Iterator[None]:
    """`folder` first on sys.path, with modules of these top-level `names` put aside, ours among them: what is loaded
    already would be found before any path is looked at. Modules of that folder are forgotten afterwards, so that two
    folders may each have a neighbour of the same name, and those put aside are back."""
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and not name.startswith("_align_function_") and folder in Path(file).parents:
                del sys.modules[name]
        sys.modules.update(aside)


def _check_arity(function: Callable[..., Any], spec: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the arguments of {spec} cannot be read", hint="wrap it: def f(messages, answer)") from error
    try:
        signature.bind([], "")
    except TypeError as error:
        raise ConfigError(
            f"{spec} takes {signature}, and is called with (messages, answer)",
            hint="give it exactly these two arguments",
        ) from error


def _nearest(name: str, names: Sequence[str], kind: str) -> str:
    if near := difflib.get_close_matches(name, names, n=3, cutoff=0.5):
        return f"did you mean {' or '.join(near)}?"
    return f"the {kind} there are {', '.join(names[:8])}" if names else f"there are no {kind} there"


def _describe(error: BaseException) -> str:
    """Type and message, on one line."""
    message = " ".join(str(error).split())[:SHOWN]
    return type(error).__name__ + (f" ({message})" if message else "")


def _place(error: BaseException, path: Path) -> str:
    """`file:line` of the innermost frame in the user's own file, or the file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path}:{lines[-1]}" if lines else str(path)
