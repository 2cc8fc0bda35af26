"""Reward models and scoring functions: what says how good an answer is."""

from align.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reward.scorer import Scorer

__all__ = ["Scorer"]

__getattr__, __dir__ = lazily(__name__, {"Scorer": "reward.scorer"})
