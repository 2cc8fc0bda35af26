"""From a section of `reward.functions` to the Scorer that it describes, and to an id that changes with what it says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from align.config.rewards import AnyFunction, Code, JsonSchema, Judge, Length, Math, OwnFunction, Regex
from align.errors import ConfigError
from align.ids import content_id, file_id
from align.turns import split_thoughts
from align.types import Message, prompt_id
from reward.answer_key import read_key
from reward.checks import NUMBER, band, length_of, result
from reward.functions import FunctionScorer, function_id, load_function
from reward.guard import Guard
from reward.scorer import Scorer, scores_in

HOW = {"weight", "path", "solutions", "tests", "workers", "url", "key_env", "timeout", "retries", "concurrency"}
"""Fields that say where something is or how it is reached, and not what it is. Files count by content."""
UNSOLVED = "the prompt has no solution"


@dataclass(frozen=True, slots=True)
class GuardedScorer:
    """A Scorer by one of `reward.checks`, in a process that can be killed. With `solutions` (prompt id → solution) the
    check is of solution and answer."""

    id: str
    guard: Guard
    solutions: dict[str, str] | None = None

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score, or why there is none: the check took too long or failed, or the solution is not
        known."""
        return [self._one(messages, answer) for messages, answer in zip(prompts, answers, strict=True)]

    def close(self) -> None:
        """End the process."""
        self.guard.close()

    def _one(self, messages: list[Message], answer: str) -> float | str:
        answer = split_thoughts(answer)[1]
        if self.solutions is None:
            return self.guard.ask(answer)
        solution = self.solutions.get(prompt_id(messages))
        return UNSOLVED if solution is None else self.guard.ask(solution, answer)


@dataclass(frozen=True, slots=True)
class LengthScorer:
    """A Scorer by `reward.checks.band`."""

    id: str
    band: Length

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """Every answer has a length, and so a score."""
        one = self.band
        said = [split_thoughts(answer)[1] for answer in answers]
        return [band(length_of(text, one.unit), one.low, one.high, one.margin) for text in said]

    def close(self) -> None:
        """It holds nothing."""


def build(function: AnyFunction) -> Scorer:
    """The Scorer that a section describes, without its weight.

    Raises ConfigError or DataError, naming file and field, for what cannot be used: a schema that is none, a solution
    that is no number, a machine without a sandbox.
    """
    match function:
        case OwnFunction():
            return FunctionScorer(load_function(function.path, Path()))
        case Regex():
            return GuardedScorer(
                identity(function), Guard("regex", {"pattern": function.pattern, "whole": function.whole})
            )
        case JsonSchema():
            check_schema(function.path)
            return GuardedScorer(
                identity(function), Guard("json_schema", {"path": str(function.path), "read": function.read})
            )
        case Length():
            return LengthScorer(identity(function), function)
        case Math():
            solutions = read_solutions(function.solutions, function.after)
            guard = Guard("math", {"after": function.after, "read": function.read})
            return GuardedScorer(identity(function), guard, solutions)
        case Code():
            from reward.code import code_scorer
            from reward.sandbox import Limits

            limits = Limits(**function.model_dump(include=set(Limits.__slots__)))
            return code_scorer(
                function.tests, limits, partial=function.partial, workers=function.workers, id=identity(function)
            )
        case Judge():
            from reward.judged import JudgeScorer

            return JudgeScorer(identity(function), function)


def identity(function: AnyFunction) -> str:
    """Content id of what a function says about answers: its settings, its file, and the version of what decides. Where
    a judge is reached is no part of it: the same model at another address is the same judge."""
    if isinstance(function, OwnFunction):
        return function_id(function.path, Path())
    made_of: dict[str, Any] = function.model_dump(mode="json", exclude=HOW)
    files = [path for path in (getattr(function, name, None) for name in ("path", "solutions", "tests")) if path]
    for path in files:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}", where=f"reward.functions, type: {function.type}")
    engine = version("math-verify") if isinstance(function, Math) else None
    return content_id(["function", made_of, [file_id(path) for path in files], engine])


def check_schema(path: Path) -> None:
    """Raises ConfigError where the file is no JSON Schema."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        schema = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the schema cannot be read ({error.strerror})", where=str(path)) from None
    except ValueError as error:
        raise ConfigError(f"the schema is no JSON: {error}", where=str(path)) from None
    try:
        if not isinstance(schema, dict | bool):
            raise SchemaError(f"a schema is an object or true or false, found {type(schema).__name__}")
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        raise ConfigError(
            f"this is no JSON Schema: {error.message[:200]} at {error.json_path}", where=str(path)
        ) from None


def read_solutions(path: Path, after: str | None) -> dict[str, str]:
    """Prompt id → solution. Raises DataError, with its place, for a solution that math-verify cannot read."""
    guard = Guard("parses", {"after": after})

    def solution(row: dict[str, Any]) -> str:
        value = row["solution"]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"`solution` must be text or a number, found {str(value)[:40]!r}")
        found = 1.0 if NUMBER.fullmatch(result(str(value), after) or str(value)) else guard.ask(str(value))
        if found != 1.0:
            why = "holds no number or formula that math-verify can read" if found == 0.0 else str(found)
            raise ValueError(f"`solution` {str(value)[:40]!r} {why}")
        return str(value)

    return read_key(path, ("solution",), solution)
