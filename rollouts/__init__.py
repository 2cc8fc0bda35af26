"""Sampling answers: engines behind one Protocol, and shards that survive a kill."""

from align.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rollouts.engine import Generator

__all__ = ["Generator"]

__getattr__, __dir__ = lazily(__name__, {"Generator": "rollouts.engine"})
