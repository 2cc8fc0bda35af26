"""The reward models on the page: a table of what each is worth, over rounds, and where the latest one is right."""

from typing import Any

from align.figures import bounds, counted, number
from align.report.plots import Estimate, Series, estimates_plot, slices_plot
from align.report.reliability import KINDS, diagram

SLICES = {
    "length": "The better answer is",
    "turn": "Place in the conversation",
    "agreement": "Annotators",
    "target": "Sureness of the label",
    "round": "Labels of",
    "doubt": "How far the members disagree",
}
"""What pairs are sliced by, in the words of the page."""


def reward_section(data: dict[str, Any]) -> dict[str, Any] | None:
    """What the page shows: `rows` for a table, `pictures`, and the warnings of the `latest` round that has new labels
    and of `earlier` ones; None where nothing was measured."""
    models = [model for model in data["reward_models"] if _accuracy(model, "held_out") or _accuracy(model, "fresh")]
    if not models:
        return None
    pictures = [_over_rounds(models)] if len(models) > 1 else []
    for model in reversed(models):
        part = next((name for name in ("held_out", "fresh") if (model[name] or {}).get("calibration")), None)
        if part is not None:
            pictures += _latest(model, part)
            break
    met = [model["warnings"] for model in reversed(models) if _accuracy(model, "fresh")]
    return {
        "rows": {f"Round {model['round']}": _row(model) for model in models},
        "pictures": pictures,
        "latest": met[0] if met else [],
        "earlier": [said for some in met[1:] for said in some],
    }


def _accuracy(model: dict[str, Any], part: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (model[part] or {}).get("accuracy")
    return found


def _row(model: dict[str, Any]) -> dict[str, Any]:
    held_out, fresh = model["held_out"] or {}, model["fresh"] or {}
    told = held_out.get("calibration") or fresh.get("calibration")
    return {
        "Held-out pairs": held_out.get("pairs"),
        "Accuracy": _cell(held_out.get("accuracy")),
        "New pairs": fresh.get("pairs"),
        "On new labels": _cell(fresh.get("accuracy")),
        "Temperature": told and ("–" if told["temperature"] is None else number(told["temperature"]), ""),
        "Log loss": told and _mended(told, lambda found: found["log_loss"]["mean"], 3),
        "Calibration error": told and _mended(told, lambda found: found["ece"]["value"], 3),
    }


def _cell(found: dict[str, Any] | None) -> tuple[str, str] | None:
    if found is None:
        return None
    return number(found["mean"]), bounds(found)


def _mended(told: dict[str, Any], value: Any, digits: int) -> tuple[str, str]:
    """What it is with the temperature, and beside it what it was without."""
    before, after = (number(value(told[name]), digits) for name in ("before", "after"))
    return after, f"was {before}"


def _over_rounds(models: list[dict[str, Any]]) -> dict[str, Any]:
    series = []
    for name, kind, part in (("held-out pairs", "main", "held_out"), ("next round's labels", "other", "fresh")):
        values = [(model["round"], _accuracy(model, part)) for model in models]
        estimates = [Estimate(number, v["mean"], v["low"], v["high"]) for number, v in values if v]
        if estimates:
            series.append(Series(name, kind, estimates))
    title = "Accuracy of each round's reward model"
    plot = estimates_plot(
        series,
        title=title,
        labels={model["round"]: f"round {model['round']}" if len(models) <= 5 else str(model["round"]) for model in models},
        form=number,
        line=(0.5, "a coin"),
        bounds=(0, 1),
        size=(400, 240),
    )  # fmt: skip
    legend = [{"kind": one.kind, "name": one.name} for one in series] if len(series) > 1 else []
    note = "The share of pairs whose better answer gets the higher score. Bars are 95% intervals."
    return {"title": title, "plot": plot, "legend": legend, "note": note}


def _latest(model: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The reliability diagram of the latest model that has one, and its accuracy by slice."""
    told, slices = model[part]["calibration"], model[part]["slices"]
    what = "held-out prompts" if part == "held_out" else "the next round's labels"
    title = f"Reliability, round {model['round']}"
    error = told["after"]["ece"]
    offered = told["temperature"] is not None
    which = f"a temperature of {number(told['temperature'] if offered else told['fit'])}"
    note = (
        f"{counted(told['pairs'], 'pair')} of {what}. On the line a model is right as often as it says. With {which}"
        f"{'' if offered else ', which is not offered for it raises the log loss,'} the calibration error is {number(error['value'], 3)}; luck alone "
        f"would make {number(error['chance'], 3)}."
    )
    legend = [{"kind": kind, "name": name} for name, kind in KINDS.items()]
    pictures = [{"title": title, "plot": diagram(told, title), "legend": legend, "note": note}]
    groups = [
        (heading, [_slice(name, part) for name, part in slices[key].items() if part["accuracy"]])
        for key, heading in SLICES.items()
        if key in slices
    ]
    if any(rows for _, rows in groups):
        title = f"Accuracy by slice, round {model['round']}"
        plot = slices_plot([(h, rows) for h, rows in groups if rows], title=title, line=(0.5, "a coin"))
        note = "With 95% intervals; the dashed line is a coin. Of many slices, some look bad by luck."
        pictures.append({"title": title, "plot": plot, "legend": [], "note": note})
    return pictures


def _slice(name: str, part: dict[str, Any]) -> tuple[str, float, float, float, int]:
    found = part["accuracy"]
    return name, found["mean"], found["low"], found["high"], part["pairs"]
