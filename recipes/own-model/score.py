"""An example of a scoring function: what a quick look at an answer would say, with no model behind it.

A recipe names it as `score.py:score`, as judge or as the taste of simulated annotators. Replace it with your own.
"""

import re


def score(messages: list[dict[str, str]], answer: str) -> float:
    """Higher is better, about 0 to 4: some length, words that do not repeat, a finished sentence, the prompt's
    topic."""
    words = re.findall(r"\w+", answer.lower())
    if not words:
        return -1.0
    triples = list(zip(words, words[1:], words[2:], strict=False))
    variety = len(set(triples)) / len(triples) if triples else 0.0
    length = min(len(words), 60) / 60 - max(0, len(words) - 200) / 200
    finished = 1.0 if answer.rstrip().endswith((".", "!", "?", '"', "”")) else 0.0
    asked = {w for m in messages for w in re.findall(r"\w{4,}", m["content"].lower())}
    on_topic = len(asked & set(words)) / len(asked) if asked else 0.0
    return variety + length + finished + on_topic
