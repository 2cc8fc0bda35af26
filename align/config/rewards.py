"""Scoring functions that a recipe names under `reward.functions`, each a section chosen by `type:`.

Each field is documented once, beneath itself. What they do is in `reward/`, and how to use them in
docs/reward-functions.md.
"""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator, model_validator

from align.config.base import Section
from align.config.paths import File, Function


class Weighted(Section):
    weight: float = 1.0
    """The function's share in the reward."""


class OwnFunction(Weighted):
    """A scoring function of your own; `path` alone says the same."""

    type: Literal["function"] = "function"
    path: Function
    """`file.py:function`; scores (messages, answer), higher is better."""


class Regex(Weighted):
    """1 for an answer in which the pattern is found, else 0."""

    type: Literal["regex"] = "regex"
    pattern: str
    """A regular expression of Python's `re`; `(?s)` in front lets a dot match line breaks, `(?i)` ignores case."""
    whole: bool = False
    """The whole answer must match, without white space around it; else the pattern may stand anywhere in it."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}, found {value!r}") from None
        return value


class JsonSchema(Weighted):
    """1 for an answer that is JSON and fits the schema, else 0."""

    type: Literal["json_schema"] = "json_schema"
    path: File
    """A JSON Schema, of the draft that its `$schema` names (2020-12 where it names none). `$ref` reaches within the
    file; nothing is fetched."""
    read: Literal["answer", "block"] = "answer"
    """What has to be JSON: the whole answer, or its last block between lines of three backticks."""


class Length(Weighted):
    """1 for an answer whose length is in a band; it falls in a straight line to 0 over `margin` beside the band (the
    soft punishment of overlong answers: Yu et al. 2025, DAPO)."""

    type: Literal["length"] = "length"
    low: Annotated[int, Field(ge=0)] = 0
    """The shortest length in the band."""
    high: Annotated[int, Field(ge=0)] | None = None
    """The longest length in the band; no limit where not given."""
    margin: Annotated[int, Field(ge=0)] = 0
    """How far outside the band the score reaches 0; with 0 it does at once."""
    unit: Literal["words", "characters"] = "words"
    """What is counted. Words stand between white space."""

    @model_validator(mode="after")
    def _a_band(self) -> Self:
        if self.low == 0 and self.high is None:
            raise ValueError("give `low`, `high` or both, else every answer is in the band")
        if self.high is not None and self.high < self.low:
            raise ValueError(f"`high` must be at least `low`, found low: {self.low} and high: {self.high}")
        return self


class Math(Weighted):
    """1 for an answer whose number or expression equals the solution's by math-verify, else 0."""

    type: Literal["math"] = "math"
    solutions: File
    """JSONL or Parquet: prompts as in `prompts.path` (it may be the same file), each with its `solution`."""
    after: Annotated[str, Field(min_length=1)] | None = None
    """Read only what follows the last of these marks, such as "####", up to the end of its line; an answer without it
    is wrong. Where not given the whole answer is read, of which math-verify takes what is boxed, else the last
    number or formula."""
    read: Literal["number", "expression"] = "number"
    """`number`: the answer must name the number itself, as 1,010.00, $7 or 50%; 7*6 is wrong where 42 is right.
    `expression`: whatever equals the solution, fractions, roots and formulas among them."""


class Code(Weighted):
    """1 for an answer whose Python passes the prompt's tests in a sandbox, else 0."""

    type: Literal["code"] = "code"
    tests: File
    """JSONL or Parquet: prompts as in `prompts.path` (it may be the same file), each with `tests` (Python that raises
    where the answer is wrong, text or a list of texts), `cases` (a list of `input` and `output` of the program), or
    both."""
    partial: bool = False
    """Score the share of tests passed instead of all or nothing."""
    seconds: Annotated[int, Field(ge=1)] = 5
    """CPU seconds of each process."""
    wall_seconds: Annotated[float, Field(gt=0)] = 15.0
    """Seconds by the clock, after which everything that still runs is killed."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Address space of each process, in MiB."""
    disk_mb: Annotated[int, Field(ge=1)] = 16
    """What may be written, in MiB."""
    processes: Annotated[int, Field(ge=1)] = 16
    """Processes and threads at a time."""
    isolation: Literal["namespaces", "limits"] = "namespaces"
    """`namespaces`: no network, no files but Python's own, where the kernel lets users make namespaces (most Linux
    machines, few containers). `limits`: the limits above, and Landlock in place of walls; it wants `trusted`."""
    trusted: bool = False
    """With `isolation: limits`: the programs are your own, or you would run them by hand."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Programs that run at a time; one for each core where not given."""

    @model_validator(mode="after")
    def _limits_for_ones_own(self) -> Self:
        if (self.isolation == "limits") != self.trusted:
            raise ValueError(
                "`isolation: limits` and `trusted: true` go together: limits alone are for programs of your own, and a "
                f"model's answers are not; found isolation: {self.isolation} and trusted: {str(self.trusted).lower()}"
            )
        return self


DEFAULT_RUBRIC = (
    "An answer is better when it does what the conversation asks for, is correct, and is clear; "
    "it is not better for being longer."
)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Endpoint(Section):
    """A model behind an OpenAI-compatible HTTP endpoint, and how it is asked."""

    url: str
    """Where the API begins, such as `http://127.0.0.1:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name there."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. Where it is not set, no key is sent. The key itself belongs in no
    recipe."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 takes the likeliest token each time."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest reply; one that is cut there is not read."""
    reply: Literal["text", "json"] = "text"
    """`text`: the judge may reason, and ends with its verdict on a line of its own. `json`: the verdict alone, which the
    endpoint must hold to a JSON schema (`response_format`; OpenAI, vLLM and others do)."""
    request: dict[str, Any] = {}
    """More fields of the request's body, such as {max_completion_tokens: 800}; null takes one out."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds until a reply is there, whole."""
    retries: Annotated[int, Field(ge=0)] = 4
    """How often a request is sent again when there is no reply, or one that says to come back later (429, 5xx)."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests under way at a time."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no name, password or query: a key goes into the variable that `key_env` names")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"must start with http:// or https:// and name a host, found {value!r}")
        return value.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _name_alone(cls, value: str) -> str:
        if not _ENV_NAME.fullmatch(value):  # it may be a key, so it is not shown
            raise ValueError("must be the name of an environment variable, as OPENAI_API_KEY, and never a key itself")
        return value

    @field_validator("request")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in ("messages", "model", "stream", "n", "response_format"):
            if name in value:
                raise ValueError(f"{name!r} cannot be given here, for it is set by the judge")
        return value


class Judge(Weighted, Endpoint):
    """A language model says how good an answer is, between 0 and 1. Verdicts that cannot be read are no scores."""

    type: Literal["judge"] = "judge"
    compare: Literal["single", "pairs"] = "single"
    """`single`: each answer alone, on a scale from 1 to `scale`. `pairs`: each answer against others to the same prompt
    that are scored with it, in both orders; its score is the mean probability of being the better one."""
    scale: Annotated[int, Field(ge=2, le=100)] = 10
    """With `compare: single`: the best rating."""
    opponents: Annotated[int, Field(ge=1)] = 3
    """With `compare: pairs`: how many others each answer meets at least (all of them where there are fewer)."""
    rubric: Annotated[str, Field(min_length=1)] = DEFAULT_RUBRIC
    """What makes an answer good, in words."""

    @model_validator(mode="after")
    def _options_of_the_form(self) -> Self:
        for name, form in (("scale", "single"), ("opponents", "pairs")):
            if name in self.model_fields_set and self.compare != form and getattr(self, name) != _default(name):
                raise ValueError(f"`{name}` belongs to `compare: {form}`, found compare: {self.compare}; remove it")
        return self


def _default(name: str) -> Any:
    return Judge.model_fields[name].default


def _own(value: Any) -> Any:
    """`{path: file.py:function}` says the same as with `type: function`."""
    return {"type": "function", **value} if isinstance(value, dict) and "path" in value else value


AnyFunction = OwnFunction | Regex | JsonSchema | Length | Math | Code | Judge
RewardFunction = Annotated[AnyFunction, Field(discriminator="type"), BeforeValidator(_own)]
"""One entry of `reward.functions`."""

_FUNCTION: TypeAdapter[AnyFunction] = TypeAdapter(RewardFunction)


def read_function(dumped: dict[str, Any]) -> AnyFunction:
    """A section of `RewardFunction` as `model_dump(mode="json")` gave it."""
    return _FUNCTION.validate_python(dumped)
