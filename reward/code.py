"""Answers that are programs, scored by their prompt's tests in `reward.sandbox`.

A prompt has `tests`, Python that raises where the answer is wrong, and `cases`, what the program must print for what it
reads. PromptTests run in the answer's own process, behind it: an answer that sets out to fool them can (it may replace
what they call, or find the word that marks their end), and a policy that is trained long enough on them may learn to.
Cases cannot be fooled so, for what is expected never enters the sandbox; take them where you can.
"""

import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.ids import file_id
from align.turns import split_thoughts
from align.types import Message, prompt_id
from reward.answer_key import read_key
from reward.checks import last_block
from reward.sandbox import Limits, require, run
from reward.scorer import scores_in

UNKNOWN = "the prompt has no tests"


@dataclass(frozen=True, slots=True)
class Case:
    """What a program reads on standard input, and what it must print (white space at the ends of lines aside)."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class PromptTests:
    tests: tuple[str, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class CodeScorer:
    """A Scorer of answers that are Python programs; see `code_scorer`."""

    key: dict[str, PromptTests]
    limits: Limits
    partial: bool
    workers: int
    id: str

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score in [0, 1], or the reason why there is none: nobody knows tests for its prompt."""

        def one(row: tuple[list[Message], str]) -> float | str:
            tests = self.key.get(prompt_id(row[0]))
            return UNKNOWN if tests is None else self.passed(program_in(row[1]), tests)

        with ThreadPoolExecutor(self.workers) as pool:  # each waits for a process of its own
            return list(pool.map(one, zip(prompts, answers, strict=True)))

    def close(self) -> None:
        """It holds nothing: each program's process ends with it."""

    def passed(self, program: str, tests: PromptTests) -> float:
        """The share of tests and cases passed; without `partial` 1.0 for all of them, else 0.0."""
        if not self.partial:
            together = ["\n".join(tests.tests)] if tests.tests else []
            done = all(self._passes(program, test) for test in together) and all(
                self._prints(program, case) for case in tests.cases
            )
            return float(done)
        found = [self._passes(program, test) for test in tests.tests] + [self._prints(program, c) for c in tests.cases]
        return sum(found) / len(found)

    def _passes(self, program: str, test: str) -> bool:
        """Whether the program with the test behind it comes to its end: not only to an exit code of 0."""
        end = secrets.token_hex(16)
        found = run(f"{program}\n{test}\nprint('\\n' + {end!r})\n", self.limits)
        return found.succeeded and found.output.endswith(f"\n{end}\n")

    def _prints(self, program: str, case: Case) -> bool:
        found = run(program, self.limits, given=case.input)
        return found.succeeded and _lines(found.output) == _lines(case.output)


def code_scorer(
    tests: Path, limits: Limits, *, partial: bool = False, workers: int | None = None, id: str = ""
) -> CodeScorer:
    """The scorer by the tests in the file `tests` (see `reward.answer_key`); its `id` is that of the file unless given.

    Raises DataError for tests that cannot be used, ConfigError where this machine has no sandbox with `limits`.
    """
    key = read_key(tests, ("tests", "cases"), read_tests)
    require(limits)
    return CodeScorer(key, limits, partial, workers or len(os.sched_getaffinity(0)), id or file_id(tests))


def read_tests(row: dict[str, Any]) -> PromptTests:
    """The tests and cases of a row. Raises ValueError for what cannot be one."""
    tests = row.get("tests") or []
    cases = row.get("cases") or []
    tests = [tests] if isinstance(tests, str) else tests
    if not isinstance(cases, list):
        raise ValueError("`cases` must be a list of {input, output}, both text")
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise ValueError("`tests` must be text or a list of texts")
    for number, test in enumerate(tests):
        try:
            compile(test, "tests", "exec")
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"`tests` {number} is no Python: {error}") from None
    for case in cases:
        if not (isinstance(case, dict) and all(isinstance(case.get(name), str) for name in ("input", "output"))):
            raise ValueError("`cases` must be a list of {input, output}, both text")
    if not tests and not cases:
        raise ValueError("`tests` and `cases` are empty")
    return PromptTests(tuple(tests), tuple(Case(case["input"], case["output"]) for case in cases))


def program_in(answer: str) -> str:
    """The program of an answer: its last block between lines of three backticks, or all of it where it has none."""
    said = split_thoughts(answer)[1]
    found = last_block(said)
    return said if found is None else found


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
