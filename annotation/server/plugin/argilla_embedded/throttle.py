"""How often something may be tried: some times at once, then once every so many seconds. Pure; the clock is given."""

from collections import OrderedDict
from dataclasses import dataclass, field

KEPT = 10_000
"""How many keys are remembered; beyond, the one whose last try is longest ago is forgotten."""


@dataclass
class Throttle:
    """`burst` tries at once for each key, and one more every `every` seconds."""

    burst: int
    every: float
    _spent_until: OrderedDict[object, float] = field(default_factory=OrderedDict)
    """When a key's tries would all be there again."""

    def wait(self, key: object, now: float) -> float:
        """Seconds until the next try; 0 where it may be now."""
        return max(0.0, self._spent_until.get(key, now) + self.every - self.burst * self.every - now)

    def spend(self, key: object, now: float) -> None:
        self._spent_until[key] = max(now, self._spent_until.get(key, now)) + self.every
        self._spent_until.move_to_end(key)
        while len(self._spent_until) > KEPT:
            self._spent_until.popitem(last=False)

    def give_back(self, key: object) -> None:
        if key in self._spent_until:
            self._spent_until[key] -= self.every

    def forgive(self, key: object) -> None:
        self._spent_until.pop(key, None)
