"""The gate: whether a new policy may go on, from judgements of people and from checks of what must not get worse.

*Go* needs both of two things at the same look. The labels must be evidence that the win rate is above one half, however
often one looks (`align.evaluation.evidence`). And the raters' own win rates must be as far above one half as people like
these, drawn anew, would put them: a t test of the rate over its standard error between raters (`rater_interval`), at
`RATERS_ALPHA`. The first alone is fooled by three people who lean; the second alone by who looks at it again and again.
`benchmarks/gate.py` measures how often both together are wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple

from align.errors import DataError
from align.evaluation.evidence import by_prompt, labels_for, log_evidence
from align.evaluation.raters import FEW, RaterInterval, rater_interval, t_quantile
from align.figures import counted

RATERS_ALPHA = 0.01
"""One-sided level of the test between raters."""
MOST_PEOPLE = 50
LEAST_MORE = 20
"""Fewer labels more are not worth asking for."""

Verdict = Literal["go", "stop", "labels", "people"]


class Comparisons(NamedTuple):
    """Judgements of blind comparisons: 1 for the new policy's answer, 0 for the other's, ½ for a tie; of which prompt
    and by whom. All in the order in which prompts were judged."""

    values: list[float]
    prompts: list[str]
    raters: list[str]

    def first(self, labels: int) -> "Comparisons":
        """What there was after so many labels."""
        return Comparisons(self.values[:labels], self.prompts[:labels], self.raters[:labels])


@dataclass(frozen=True, slots=True)
class Check:
    """What must not get worse: for each prompt the new policy's score less the other one's, in [−1, 1], and by how much
    the mean may be below 0."""

    name: str
    differences: Sequence[float]
    margin: float


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`state` is `passed` (not worse by more than the margin), `failed` (worse by more) or `open`; `evidence` are the
    e-values for the one and for the other."""

    name: str
    state: Literal["passed", "failed", "open"]
    mean: float
    margin: float
    n: int
    evidence: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says. `evidence` is the e-value for a win rate above one half; `needed` (1/α) lets it go. `rate` is
    the win rate with its interval over prompts and people like these, None below two of either. `more` is about how
    many labels, or people, are missing, None where that is not what is missing."""

    verdict: Verdict
    reason: str
    evidence: float
    needed: float
    rate: RaterInterval | None
    more: int | None
    checks: list[CheckResult]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def decide(found: Comparisons, checks: Sequence[Check] = (), *, effect: float = 0.05, alpha: float = 0.05) -> Decision:
    """Go, stop, or what is missing. `effect` is the least improvement of the win rate, above one half, that matters:
    where there is evidence that it is less, the verdict is stop.

    A false go has a probability of at most `alpha` where raters do not lean; where they do, as measured. A check counts
    at the same `alpha`, in either direction. Raises DataError where nothing was judged.
    """
    if not found.values:
        raise DataError("no blind comparison was judged yet, so the gate knows nothing", hint="label some first")
    per_prompt = by_prompt(found.values, found.prompts)
    evidence = log_evidence(per_prompt)
    enough = math.log(1 / alpha)
    results = [_checked(check, enough) for check in checks]
    rate = _rate(found)

    def verdict(what: Verdict, reason: str, more: int | None = None) -> Decision:
        return Decision(what, reason, math.exp(min(evidence, 700.0)), 1 / alpha, rate, more, results)

    if failed := [result for result in results if result.state == "failed"]:
        return verdict("stop", "; ".join(map(_worse, failed)))
    mean = rate.mean if rate is not None else fmean(found.values)
    if log_evidence([1 - x for x in per_prompt], above=0.5 - effect) >= enough:
        return verdict("stop", f"the win rate ({mean:.2f}) is not {0.5 + effect:.2f} or more")
    people = _people_missing(rate, len(set(found.raters)), shown=evidence >= enough)
    if people:
        return verdict("people", _of_people(rate, len(set(found.raters))), people)
    if evidence < enough or not _between_raters(rate):
        more = _labels_missing(per_prompt, evidence, enough, effect, alpha)
        return verdict("labels", f"{len(found.values)} labels do not decide it yet (win rate {mean:.2f})", more)
    if undecided := [result for result in results if result.state == "open"]:
        more = max(_prompts_missing(result, enough) for result in undecided)
        names = ", ".join(result.name for result in undecided)
        return verdict("labels", f"better, but whether {names} got worse is not decided yet", more)
    return verdict("go", f"the win rate is {mean:.2f}, and above one half for people like these")


def evidence_over_labels(found: Comparisons, *, every: int = 20) -> list[tuple[int, float]]:
    """(labels, e-value) after each `every` labels, and at the end: how the evidence grew."""
    looks = [*range(every, len(found.values), every), len(found.values)]
    return [(n, math.exp(min(log_evidence(by_prompt(*found.first(n)[:2])), 700.0))) for n in looks if n]


def _rate(found: Comparisons) -> RaterInterval | None:
    if len(set(found.prompts)) < 2 or len(set(found.raters)) < 2:
        return None
    return rater_interval(found.values, found.prompts, found.raters)


def _between_raters(rate: RaterInterval | None) -> bool:
    """Whether the rate is above one half by the test between raters."""
    if rate is None:
        return False
    needed = t_quantile(1 - RATERS_ALPHA, rate.raters - 1)
    return rate.mean - 0.5 > needed * rate.error if rate.error else rate.mean > 0.5


def _people_missing(rate: RaterInterval | None, raters: int, *, shown: bool) -> int | None:
    """How many more people are needed where more labels of those who are there would not do; None where they would.

    With endless labels the standard error is what lies between raters, over the root of their number. Before the labels
    are evidence enough (`shown`) they say little about that, and labels are asked for; few people whose labels are
    enough and who still fail the test are asked for company: it is cheaper.
    """
    if rate is None or raters < 3:
        return max(FEW - raters, 1)
    if not shown or _between_raters(rate):
        return None
    gain = rate.mean - 0.5
    if not rate.few and gain > t_quantile(1 - RATERS_ALPHA, raters - 1) * rate.between / math.sqrt(raters):
        return None
    enough = (
        k for k in range(raters + 1, MOST_PEOPLE)
        if gain > t_quantile(1 - RATERS_ALPHA, k - 1) * max(rate.between, rate.error) / math.sqrt(k)
    )  # fmt: skip
    return next(enough, MOST_PEOPLE) - raters


def _of_people(rate: RaterInterval | None, raters: int) -> str:
    if rate is None or raters < 3:
        return f"{counted(raters, 'person', 'people')} judged, too few to speak of people like them"
    if rate.between > 0:
        return f"{raters} people differ too much from each other (by {rate.between:.2f}) to speak of people like them"
    return f"{raters} people are few, and their labels do not speak of people like them yet"


def _labels_missing(per_prompt: Sequence[float], evidence: float, enough: float, effect: float, alpha: float) -> int:
    """About how many more prompts are to be judged, at the rate so far or, where that is no gain, for the `effect`."""
    n, mean = len(per_prompt), fmean(per_prompt)
    rate = min(max(mean, 0.5 + effect), 0.99)
    ties = sum(x == 0.5 for x in per_prompt) / n
    wanted = labels_for(rate, alpha=alpha) if evidence < enough else n + LEAST_MORE
    return max(math.ceil(wanted / max(1 - ties, 0.1)) - n, LEAST_MORE)


def _checked(check: Check, enough: float) -> CheckResult:
    """A check with its evidence for and against, each by differences brought onto [0, 1]."""
    kept = log_evidence([(d + 1) / 2 for d in check.differences], above=(1 - check.margin) / 2)
    lost = log_evidence([(1 - d) / 2 for d in check.differences], above=(1 + check.margin) / 2)
    state: Literal["passed", "failed", "open"] = "failed" if lost >= enough else "passed" if kept >= enough else "open"
    both = (math.exp(min(kept, 700.0)), math.exp(min(lost, 700.0)))
    return CheckResult(check.name, state, fmean(check.differences), check.margin, len(check.differences), both)


def _worse(result: CheckResult) -> str:
    return f"{result.name} got worse by {-result.mean:.3f}, allowed are {result.margin:g}"


def _prompts_missing(result: CheckResult, enough: float) -> int:
    """As many more prompts as the evidence for "not worse" needs at the pace so far; as many again where it has none."""
    kept = math.log(max(result.evidence[0], 1e-300))
    wanted = result.n * enough / kept if kept > 0.1 else 2.0 * result.n
    return max(math.ceil(wanted) - result.n, LEAST_MORE)


def sentence(decision: Decision) -> str:
    """The verdict in words, with what is missing."""
    if decision.more is None:
        return f"{decision.verdict}: {decision.reason}"
    missing = {
        "labels": f"judge about {decision.more} more prompts",
        "people": f"ask {counted(decision.more, 'more person', 'more people')}",
    }
    return f"not decided: {decision.reason}; {missing[decision.verdict]}"
