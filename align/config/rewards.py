"""Scoring functions of a recipe's `reward.functions`, each a section chosen by `type:`.

The docstring after each field documents it. The code of the functions is in `reward/`; docs/reward-functions.md shows
how to use them.
"""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator, model_validator

from align.config.base import Section
from align.config.paths import File, Function


class Weighted(Section):
    weight: float = 1.0
    """The weight of this reward term in the sum."""


class OwnFunction(Weighted):
    """Your own scoring function; `path` alone means the same."""

    type: Literal["function"] = "function"
    path: Function
    """`file.py:function` that scores (messages, answer); higher is better."""


class Regex(Weighted):
    """1 if the pattern is found in the answer, else 0."""

    type: Literal["regex"] = "regex"
    pattern: str
    """A regular expression of Python's `re`. Start it with `(?s)` to let a dot match line breaks, with `(?i)` to ignore
    case."""
    whole: bool = False
    """Match the whole answer, without surrounding white space; otherwise the pattern may be anywhere in the answer."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}, found {value!r}") from None
        return value


class JsonSchema(Weighted):
    """1 if the answer is JSON and valid under the schema, else 0."""

    type: Literal["json_schema"] = "json_schema"
    path: File
    """A JSON Schema, of the draft in its `$schema` (2020-12 if it has none). `$ref` works only within the file; nothing
    is fetched."""
    read: Literal["answer", "block"] = "answer"
    """What must be JSON: the whole answer, or its last block between lines of three backticks."""


class Length(Weighted):
    """1 if the answer's length is in a range; outside the range the score falls linearly to 0 over `margin` (the soft
    overlong punishment of DAPO: Yu et al. 2025)."""

    type: Literal["length"] = "length"
    low: Annotated[int, Field(ge=0)] = 0
    """The shortest length in the range."""
    high: Annotated[int, Field(ge=0)] | None = None
    """The longest length in the range. If not given: no limit."""
    margin: Annotated[int, Field(ge=0)] = 0
    """How far outside the range the score reaches 0; with 0 it is 0 at once."""
    unit: Literal["words", "characters"] = "words"
    """The unit of length. Words are separated by white space."""

    @model_validator(mode="after")
    def _a_band(self) -> Self:
        if self.low == 0 and self.high is None:
            raise ValueError("give `low`, `high` or both, else every answer is in the band")
        if self.high is not None and self.high < self.low:
            raise ValueError(f"`high` must be at least `low`, found low: {self.low} and high: {self.high}")
        return self


class Math(Weighted):
    """1 if the answer's number or expression equals the solution's, checked by math-verify, else 0."""

    type: Literal["math"] = "math"
    solutions: File
    """JSONL or Parquet: prompts as in `prompts.path` (it may be the same file), each with its `solution`."""
    after: Annotated[str, Field(min_length=1)] | None = None
    """A marker, such as "####". Only the text after its last occurrence, up to the end of that line, is read; an answer
    without the marker is wrong. If not given: the whole answer is read, and math-verify takes what is boxed, else the
    last number or formula."""
    read: Literal["number", "expression"] = "number"
    """`number`: the answer must contain the number itself, such as 1,010.00, $7 or 50%; 7*6 is wrong if the solution is
    42. `expression`: anything that equals the solution, including fractions, roots and formulas."""


class Code(Weighted):
    """1 if the answer's Python code passes the prompt's tests in a sandbox, else 0."""

    type: Literal["code"] = "code"
    tests: File
    """JSONL or Parquet: prompts as in `prompts.path` (it may be the same file), each with `tests` (Python code that
    raises if the answer is wrong; text or a list of texts), `cases` (a list of `input` and `output` of the program), or
    both."""
    partial: bool = False
    """Score the share of tests that pass, instead of all or nothing."""
    seconds: Annotated[int, Field(ge=1)] = 5
    """CPU time limit of each process, in seconds."""
    wall_seconds: Annotated[float, Field(gt=0)] = 15.0
    """Wall-clock limit in seconds; everything that still runs then is killed."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Address space limit of each process, in MiB."""
    disk_mb: Annotated[int, Field(ge=1)] = 16
    """Limit of written data, in MiB."""
    processes: Annotated[int, Field(ge=1)] = 16
    """Limit of processes and threads at a time."""
    isolation: Literal["namespaces", "limits"] = "namespaces"
    """`namespaces`: no network, and no files except Python's own; the kernel must let users create namespaces (most
    Linux machines do, few containers). `limits`: only the limits above, and Landlock instead of namespaces; it requires
    `trusted`."""
    trusted: bool = False
    """Required with `isolation: limits`: confirms that the programs are your own, or that you would run them by
    hand."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Programs that run at the same time. If not given: one for each core."""

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
    """A model behind an OpenAI-compatible HTTP endpoint, and the settings of its requests."""

    url: str
    """The base URL of the API, such as `http://127.0.0.1:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """The endpoint's name for the model."""
    key_env: str = "OPENAI_API_KEY"
    """The name of the environment variable with the API key. If the variable is not set, no key is sent. A recipe never
    contains the key itself."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature; 0 always takes the most likely token."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Maximum length of a reply, in tokens; a reply that is cut off there is not read."""
    reply: Literal["text", "json"] = "text"
    """`text`: the judge may reason, and ends with its verdict on a separate line. `json`: only the verdict; the
    endpoint must enforce a JSON schema (`response_format`; OpenAI, vLLM and others do)."""
    request: dict[str, Any] = {}
    """More fields for the body of the request, such as {max_completion_tokens: 800}; null removes a field."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds to wait for a complete reply."""
    retries: Annotated[int, Field(ge=0)] = 4
    """How often a request is sent again if there is no reply, or a reply that asks to try later (429, 5xx)."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Concurrent requests."""

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
    """A language model judges how good an answer is, from 0 to 1. A verdict that cannot be read gives no score."""

    type: Literal["judge"] = "judge"
    compare: Literal["single", "pairs"] = "single"
    """`single`: each answer alone, on a scale from 1 to `scale`. `pairs`: each answer against other answers to the same
    prompt that are scored together with it, in both orders; its score is the mean probability of being the better
    one."""
    scale: Annotated[int, Field(ge=2, le=100)] = 10
    """With `compare: single`: the best rating."""
    opponents: Annotated[int, Field(ge=1)] = 3
    """With `compare: pairs`: the least number of other answers that each answer is compared with (all of them if there
    are fewer)."""
    rubric: Annotated[str, Field(min_length=1)] = DEFAULT_RUBRIC
    """The criteria for a good answer, in words."""

    @model_validator(mode="after")
    def _options_of_the_form(self) -> Self:
        for name, form in (("scale", "single"), ("opponents", "pairs")):
            if name in self.model_fields_set and self.compare != form and getattr(self, name) != _default(name):
                raise ValueError(f"`{name}` belongs to `compare: {form}`, found compare: {self.compare}; remove it")
        return self


def _default(name: str) -> Any:
    return Judge.model_fields[name].default


def _own(value: Any) -> Any:
    """`{path: file.py:function}` means the same as with `type: function`."""
    return {"type": "function", **value} if isinstance(value, dict) and "path" in value else value


AnyFunction = OwnFunction | Regex | JsonSchema | Length | Math | Code | Judge
RewardFunction = Annotated[AnyFunction, Field(discriminator="type"), BeforeValidator(_own)]
"""One entry of `reward.functions`."""

_FUNCTION: TypeAdapter[AnyFunction] = TypeAdapter(RewardFunction)


def read_function(dumped: dict[str, Any]) -> AnyFunction:
    """A section of `RewardFunction` as `model_dump(mode="json")` gave it."""
    return _FUNCTION.validate_python(dumped)
