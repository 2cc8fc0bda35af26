"""A language model's verdicts as scores: the Scorer over `align.judge`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from align.config.rewards import Judge
from align.judge import compare, rate
from align.types import Message, prompt_id
from reward.scorer import scores_in

Key = tuple[str, str]
"""A prompt's id, and an answer's text."""
ALONE = "there is no other answer to the same prompt to compare it with"


@dataclass(frozen=True, slots=True)
class JudgeScorer:
    """A Scorer that asks a language model. Scores are in [0, 1]."""

    id: str
    judge: Judge

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        """As `Scorer.score`. Raises ServiceError where the endpoint answers nothing at all (see `align.chat.ask`)."""
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score, or the reason why there is none: the judge did not reply, or its reply has no
        verdict. The same answer to the same prompt is judged once in a call."""
        keys = [(prompt_id(messages), answer) for messages, answer in zip(prompts, answers, strict=True)]
        conversations = dict(zip((prompt for prompt, _ in keys), prompts, strict=True))
        found = (self._alone if self.judge.compare == "single" else self._against_others)(keys, conversations)
        return [found[key] for key in keys]

    def close(self) -> None:
        """It holds nothing."""

    def _alone(self, keys: list[Key], conversations: dict[str, list[Message]]) -> dict[Key, float | str]:
        distinct, top = list(dict.fromkeys(keys)), self.judge.scale - 1
        asked = [(conversations[prompt], answer) for prompt, answer in distinct]
        ratings = rate(self.judge, self.judge.rubric, asked, self.judge.scale)
        return {
            key: rating if isinstance(rating, str) else (rating - 1) / top
            for key, rating in zip(distinct, ratings, strict=True)
        }

    def _against_others(self, keys: list[Key], conversations: dict[str, list[Message]]) -> dict[Key, float | str]:
        """The mean probability of being better than the others that an answer met, over the pairs with verdicts."""
        counts = Counter(keys)
        groups: dict[str, list[Key]] = {}
        for key in counts:
            groups.setdefault(key[0], []).append(key)
        pairs = [
            (group[one], group[other])
            for group in groups.values()
            for one, other in meetings(len(group), self.judge.opponents)
        ]
        asked = [(conversations[one[0]], one[1], other[1]) for one, other in pairs]
        won: dict[Key, list[float]] = {key: [] for key in counts}
        why = dict.fromkeys(counts, ALONE)
        for (one, other), found in zip(pairs, compare(self.judge, self.judge.rubric, asked), strict=True):
            if found.target is None:
                why[one] = why[other] = found.reason
            else:
                won[one].append(found.target)
                won[other].append(1 - found.target)
        for key, count in counts.items():
            if count > 1 and len(groups[key[0]]) == 1:
                won[key].append(0.5)  # it met itself alone
        return {key: sum(shares) / len(shares) if shares else why[key] for key, shares in won.items()}


def meetings(count: int, opponents: int) -> list[tuple[int, int]]:
    """Which of `count` answers are compared: each with the ones that follow it in a circle, so that each meets at least
    min(`opponents`, `count` − 1) others, all of them the same number where that can be, and no pair meets twice."""
    steps = range(1, min(-(-opponents // 2), count // 2) + 1)
    return sorted({(min(i, j), max(i, j)) for step in steps for i in range(count) for j in ((i + step) % count,)})
