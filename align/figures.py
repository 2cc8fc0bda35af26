"""Numbers as people read them, each kind in one way: counts, shares, values with their intervals, times."""

from collections.abc import Callable, Mapping
from typing import Any

NONE = "–"
"""What stands where there is no number."""


def counted(count: int, what: str, many: str | None = None) -> str:
    """
    >>> counted(1, "answer"), counted(1200, "answer"), counted(0, "reply", "replies")
    ('1 answer', '1,200 answers', '0 replies')
    """
    return f"{count:,} {what if count == 1 else many or f'{what}s'}"


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """
    >>> number(0.5), number(-0.1234, 3), number(0.25, signed=True), number(None)
    ('0.50', '−0.123', '+0.25', '–')
    """
    return NONE if value is None else f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Of a number of any size, four digits.

    >>> significant(0.123456), significant(-1234.56), significant(1e-5)
    ('0.1235', '−1235', '1e-05')
    """
    return f"{'−' if value < 0 else ''}{abs(value):.4g}"


def share(value: float) -> str:
    """A share in [0, 1] as a percentage without decimals; what is not all is never rounded up to 100%."""
    percent = round(100 * value)
    if (percent == 100 and value < 1) or (percent == 0 and value > 0):
        return (
            f"{100 * value:.1f}%"
            if 0.0005 <= value < 0.9995
            else ("more than 99.9%" if value > 0.5 else "less than 0.1%")
        )
    return f"{percent}%"


def points(value: float) -> str:
    """A difference of shares, in percentage points.

    >>> points(0.123), points(-0.04)
    ('+12', '−4')
    """
    return f"{100 * value:+.0f}".replace("-", "−")


def interval(found: Mapping[str, Any] | None, form: Callable[[float], str] = number) -> str:
    """A value (`mean` or `value`) with its interval (`low`, `high`); a dash where it is not known.

    >>> interval({"mean": 0.78, "low": 0.74, "high": 0.82}), interval({"value": None, "reason": "nobody said"})
    ('0.78 [0.74, 0.82]', '–')
    """
    value = None if found is None else found.get("mean", found.get("value"))
    return NONE if found is None or value is None else f"{form(value)} {bounds(found, form)}"


def bounds(found: Mapping[str, Any], form: Callable[[float], str] = number) -> str:
    """The interval alone, where the value stands beside it.

    >>> bounds({"value": 0.78, "low": 0.74, "high": 0.82}, share)
    '[74%, 82%]'
    """
    return f"[{form(found['low'])}, {form(found['high'])}]"


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (0.31, 9.96, 61, 3725)]
    ['0.3 s', '10 s', '1 min 1 s', '1 h 2 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
