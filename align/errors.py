"""Errors written for people: what went wrong, the value found, where, and the way out.

Every error that a user can cause is an `AlignError`; the command line prints it as one sentence and exits with
its `exit_code`. Anything else that escapes is a defect of ours (exit code 1).
"""

EXIT_OURS = 1
EXIT_USER = 2
EXIT_WAITING = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, people have not finished yet
EXIT_BLOCKED = 76  # a stage has found a reason why the run must not go on


class AlignError(Exception):
    """Base of all errors for people. `where` is a file, `file:line` or field; `hint` is the way out.

    >>> str(AlignError("the answer is empty", where="pairs.jsonl:7", hint="remove the line"))
    'pairs.jsonl:7: the answer is empty; remove the line'
    """

    exit_code = EXIT_OURS

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        return (f"{self.where}: " if self.where else "") + self.what + (f"; {self.hint}" if self.hint else "")


class ConfigError(AlignError):
    """A recipe, an option or a combination of them that cannot be meant."""

    exit_code = EXIT_USER


class DataError(AlignError):
    """A row or a file that cannot be used as it is."""

    exit_code = EXIT_USER


class ServiceError(AlignError):
    """Something outside this process is missing or in the way: a server, a port, disk space, a lock."""

    exit_code = EXIT_USER


class StageError(AlignError):
    """A stage of a run failed by no fault of the user's."""


KINDS: dict[str, type[AlignError]] = {
    c.__name__: c for c in (AlignError, ConfigError, DataError, ServiceError, StageError)
}
"""By name, so that an error crosses from a stage's subprocess to the runner as JSON and keeps its kind."""
