"""Drift: whether a reward model still knows what people prefer, now that the policy answers otherwise.

The policy is trained to raise the reward, so its answers leave what the reward model learned from. Each round's new
labels tell how far: before a new reward model learns from them, the one of the round before is asked about them.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from align.evaluation.statistics import Interval, independent_difference
from align.figures import interval


def drift(fresh: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any] | None:
    """How much worse (or better) a reward model is on `fresh` labels than on those of `baseline`.

    Both are results of `reward.measure.measure` on different prompts. Returns the differences, fresh less baseline, of
    `accuracy` and of `log_loss`, each with its 95% interval; the log loss is that behind the temperature where both
    have one, so that a scale that was wrong before does not count as drift. None where either was not measured.
    """
    if fresh["accuracy"] is None or baseline["accuracy"] is None:
        return None
    told = all(found.get("calibration") for found in (fresh, baseline))
    losses = [found["calibration"]["after"]["log_loss"] if told else found["log_loss"] for found in (fresh, baseline)]
    return {
        "accuracy": asdict(_difference(fresh["accuracy"], baseline["accuracy"])),
        "log_loss": asdict(_difference(*losses)),
    }


def warnings(fresh: Mapping[str, Any], change: Mapping[str, Any] | None, *, round: int, against: str) -> list[str]:
    """Sentences for people about what the intervals say; none where they say nothing bad.

    `fresh` is how the reward model of the round before `round` did on that round's labels, `change` what `drift` made
    of it, and `against` what that is compared with, in words that follow "than".
    """
    accuracy = fresh["accuracy"]
    if accuracy is None:
        return []
    model, labels = f"the reward model of round {round - 1}", f"the new labels of round {round}"
    said = []
    if change is not None and change["accuracy"]["high"] < 0:
        said.append(
            f"Drift: of {labels}, {model} puts the better answer first in {interval(accuracy)}, which is by "
            f"{interval(_turned(change['accuracy']))} less often than {against}. Its scores mean less for what the policy "
            "answers now: label more of these answers, or let the policy move less between two labellings."
        )
    if change is not None and change["log_loss"]["low"] > 0:
        said.append(
            f"Drift: on {labels}, the log loss of {model} is by {interval(change['log_loss'])} nats higher than {against}: "
            "it is surer than it is right, so let nothing depend on its probabilities before new labels mend them."
        )
    if accuracy["high"] < 0.5:
        said.append(f"The reward model of round {round - 1} orders {labels} the wrong way round: {interval(accuracy)}.")
    return said


def _turned(found: Mapping[str, Any]) -> dict[str, float]:
    """A difference the other way round."""
    return {"mean": -found["mean"], "low": -found["high"], "high": -found["low"]}


def _difference(new: Mapping[str, Any], old: Mapping[str, Any]) -> Interval:
    return independent_difference(Interval(**new), Interval(**old))
