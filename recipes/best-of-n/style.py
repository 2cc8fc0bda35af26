"""A house style that code can check: how a reply begins, says sorry and ends. What it promises is not looked at.

A recipe names it as `style.py:style` under `reward.functions`. Replace it with your own rules.
"""

import re

GREETING = re.compile(r"\s*(hello|hi|good day|good morning|dear)\b", re.IGNORECASE)
SORRY = re.compile(r"\b(sorry|apologi[sz]e|apologies)\b", re.IGNORECASE)
CLOSING = re.compile(r"\b(thank you|thanks|have a nice day)\b[^.!?]*[.!?]\s*$", re.IGNORECASE)
BLAME = re.compile(r"\b(not our fault|should have been|stop complaining|calm down)\b", re.IGNORECASE)


def style(messages: list[dict[str, str]], answer: str) -> float:
    """From 0 to 4: a greeting, an apology, a closing, no blame; and nothing off for up to 30 words."""
    words = len(answer.split())
    if not words:
        return 0.0
    kept = [GREETING.match(answer), SORRY.search(answer), CLOSING.search(answer), not BLAME.search(answer)]
    return max(sum(map(bool, kept)) - 0.05 * max(words - 30, 0), 0.0)
