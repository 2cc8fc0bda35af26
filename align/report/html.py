"""The report as one self-contained HTML file: no script, no request, every text escaped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from align.escape import shown
from align.figures import bounds, counted, duration, interval, number, points, share
from align.provenance.lineage import drop_index
from align.report import words
from align.report.data import latest_round, report_data
from align.report.gates import gate_picture
from align.report.plots import Estimate, Series, curves_plot, estimates_plot
from align.report.reward_page import reward_section
from align.stages.names import EVALUATION, POLICY, REWARD, REWARD_CHECK, ROLLOUTS
from align.store import replace_file

HERE = Path(__file__).parent
LONGEST = 100_000
"""Characters of one text that the page shows."""
OPEN_SAMPLES, OPEN_SAID = 8, 4
"""Side-by-side answers, and judgements with more than a choice, that are seen at once; the rest unfolds."""
STAGES = {
    ROLLOUTS: "sampling",
    REWARD: "training",
    POLICY: "training",
    REWARD_CHECK: "evaluation",
    EVALUATION: "evaluation",
}
"""Stages that have a colour of their own in the time bars; the rest is `other`."""


def write_report(run: Path) -> Path:
    """Write `<run>/report.html` and return its path. Raises what `report_data` raises."""
    path = run / "report.html"
    replace_file(path, render(report_data(run)))
    return path


def renew_derived(run: Path) -> None:
    """Make again what was derived from a run's stages and may name people who are forgotten: the page, if there is one,
    and the index of its lineage, when it is next asked for."""
    drop_index(run)
    page = run / "report.html"
    if page.is_file():
        page.unlink()
        write_report(run)


def render(data: dict[str, Any]) -> str:
    """The page for a `report_data`."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": share,
        "counted": counted,
        "number": number,
        "interval": interval,
        "bounds": bounds,
        "duration": duration,
        "raised": words.raised,
        "judged_blind": words.judged_blind,
    }
    return environment.get_template("report.html.j2").render(
        data=data,
        last=latest_round(data),
        headline=words.headline(data),
        lede=words.lede(data),
        glossary=words.GLOSSARY,
        # ours, and without </style>; everything that is not Markup is escaped
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        pictures=_pictures(data),
        compiled="binary" if data["method"] == "kto" else "preferences",
        compiled_heading="Binary labels" if data["method"] == "kto" else "Preferences",
        curves=_curves(data),
        gate=gate_picture(data["gates"]),
        rewards=_rewards(data),
        times=_times(data),
        totals=_totals(data),
        verdicts=_verdicts(data),
        people=_people(data),
        labelled=sum(person["labels"] > 0 for person in data["annotators"]),
        agreement=_agreement(data),
        said=_said(data["said"]),
        open_samples=OPEN_SAMPLES,
        open_said=OPEN_SAID,
    )


def visible(value: object) -> object:
    """Every text that the template prints goes through here: characters that work unseen are written out.

    >>> visible("a\\u202eb\\x1b")
    'a‹U+202E›b‹U+001B›'
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return shown(value.replace("\r\n", "\n"), LONGEST)
    return value


def _pictures(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The plots over rounds, each with its caption; those without a number are left out."""
    first = data["first_policy"]
    won = [
        Series(name, kind, _estimates(data["rounds"], key))
        for name, kind, key in (
            (f"over {first}", "main", "win_rate_vs_sft"),
            ("over the parent", "other", "win_rate_vs_parent"),
        )
    ]
    pictures = []
    policies = [data["sft"], *data["rounds"]]
    scores = _estimates(policies, "mean_score")
    if won[0].estimates:
        won = [series for series in won if series.estimates]
        labels = _names(won[0].estimates, first)
        plot = estimates_plot(
            won,
            title="Win rate per round",
            labels=labels,
            form=number,
            line=(0.5, "no difference"),
            bounds=(0, 1),
            size=(520, 355) if scores else (360, 190),  # with two others beside it, it is as high as both
        )
        pictures.append({"title": "Win rate", "plot": plot, "legend": won, "note": "Bars are 95% intervals."})
    if scores:
        shown = data["sft"]["demonstrations"]
        plot = estimates_plot(
            [Series("mean score", "main", scores)],
            title="Mean score",
            labels=_names(scores, first),
            form=number,
            line=(shown["mean"], "demonstrations") if shown else None,
        )
        note = "The judge's score of held-out answers, higher is better."
        pictures.append({"title": "Mean score", "plot": plot, "legend": [], "note": note})
    lengths = [Estimate(p["round"], *[p["mean_tokens"]] * 3) for p in policies if p["mean_tokens"] is not None]
    if lengths:
        plot = estimates_plot(
            [Series("mean tokens", "main", lengths)],
            title="Mean length",
            labels=_names(lengths, first),
            form=lambda value: f"{value:.0f}",
            zero=True,
        )
        note = "Tokens of a held-out answer. A win rate that comes with longer answers deserves a second look."
        pictures.append({"title": "Mean length", "plot": plot, "legend": [], "note": note})
    return pictures


def _names(estimates: Sequence[Estimate], first: str) -> dict[int, str]:
    """What stands below each x: words where there is room for them, else the round's number."""
    rounds = {e.x: f"round {e.x}" if len(estimates) <= 5 else str(e.x) for e in estimates}
    return {x: ("SFT" if first == "SFT" else "given") if x == 0 else name for x, name in rounds.items()}


def _estimates(policies: list[dict[str, Any]], name: str) -> list[Estimate]:
    found = ((p["round"], p[name]) for p in policies if p.get(name) is not None)
    return [Estimate(number, value["mean"], value["low"], value["high"]) for number, value in found]


def _curves(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One picture for SFT's loss and one for each metric of the rounds, all rounds in it."""
    groups: dict[str, list[dict[str, Any]]] = {}
    method = words.METHOD_NAMES[data["method"]]
    for curve in data["learning_curves"]:
        trained = "reward model" if curve["stage"] == REWARD else method if curve["round"] else "SFT"
        groups.setdefault(f"{trained}: {curve['title']}", []).append(curve)
    pictures = []
    for title, curves in groups.items():
        lines = [(f"round {c['round']}", _colour(c["round"]), c["points"]) for c in curves]
        names = [(name, colour) for name, colour, _ in lines] if curves[0]["round"] else []
        pictures.append(
            {
                "title": title,
                "plot": curves_plot(lines, title=title, bounds=(0, 1) if curves[0]["share"] else None),
                "legend": names,
            }
        )
    return pictures


def _colour(round: int) -> int:
    """One of the style sheet's eight curve colours; more rounds than that begin again."""
    return (round - 1) % 8 if round else 0


def _times(data: dict[str, Any]) -> dict[str, Any]:
    """Per round the seconds of each kind of stage, and the longest round, which is the full width."""
    rows = []
    for round in sorted({s["round"] for s in data["stages"]}):
        parts = dict.fromkeys([*STAGES.values(), "other"], 0.0)
        for stage in data["stages"]:
            if stage["round"] == round:
                parts[STAGES.get(stage["stage"], "other")] += stage["seconds"]
        name = f"round {round}" if round else data["first_policy"]
        rows.append({"round": round, "name": name, "parts": parts, "seconds": sum(parts.values())})
    return {"rows": rows, "longest": max((r["seconds"] for r in rows), default=0.0) or 1.0}


def _totals(data: dict[str, Any]) -> dict[str, Any]:
    labels = [r["labels"] for r in data["rounds"] if r["labels"] is not None]
    reasons: dict[str, dict[int, int]] = {}
    for policy in (data["sft"], *data["rounds"]):
        for reason, rows in policy["dropped"].items():
            reasons.setdefault(reason, {})[policy["round"]] = rows
    return {
        "labels": sum(labels) if labels else None,
        "seconds": sum(s["seconds"] for s in data["stages"]),
        "dropped": dict(sorted(reasons.items(), key=lambda item: (-sum(item[1].values()), item[0]))),
    }


def _verdicts(data: dict[str, Any]) -> dict[str, int]:
    found = [row["better"] for row in data["samples"]["rows"]]
    return {name: found.count(name) for name in ("latest", "tie", "first")}


PEOPLE = {
    "labels": "Labels",
    "compared": "Blind comparisons",
    "ties": "Ties",
    "both_bad": "Both bad",
    "skipped": "Skipped",
    "left": "Chose the left answer",
    "reliability": "Reliability",
    "gold": "Control items right",
    "consistency": "Repeats alike",
}
"""Columns of the annotators' table. A column in which nobody has anything is left out."""


def _people(data: dict[str, Any]) -> dict[str, Any]:
    rows = {p["name"]: {name: p[key] for key, name in PEOPLE.items()} for p in data["annotators"]}
    return _table("Annotator", rows)


def _agreement(data: dict[str, Any]) -> dict[str, Any]:
    """Agreement, contradictions and what suggestions did, round by round."""
    rows = {}
    for r in data["rounds"]:
        found = r["conflicts"] or {}
        rows[f"Round {r['round']}"] = {
            "Agreement": _estimate(r, "agreement"),
            "Alpha": _estimate(r, "alpha"),
            "Kappa": _estimate(r, "fleiss"),
            "Pairs judged both ways": found.get("both_ways"),
            "Circles": found.get("cycles"),
            "Against oneself": found.get("self_contradictions"),
            SUGGESTION_EFFECT: _known((r["suggestion_effect"] or {}).get("effect")),
        }
    return _table("Round", rows)


FLAGGED = {"unsafe": "unsafe", "wrong": "wrong", "off_topic": "off topic", "format": "badly formed"}


def _said(said: dict[str, Any]) -> dict[str, Any]:
    """How often people said more than their choice, of how many judgements."""
    rows = {}
    for found in said["counts"]:
        of = f"of {found['judgements']}"
        name = f"Round {found['round']}{', blind' if found['blind'] else ''}"
        more = {"Reasons": found["reasons"], "Written instead": found["edits"]}
        rows[name] = {what: (str(count), of) if count else None for what, count in more.items()}
        rows[name] |= {f"Flagged {words}": found["flags"].get(flag) for flag, words in FLAGGED.items()}
    return _table("Labels", rows)


def _rewards(data: dict[str, Any]) -> dict[str, Any] | None:
    """What is measured of the reward models, with the table's cells as text; None where nothing is."""
    found = reward_section(data)
    return found and {**found, "table": _table("Reward model", found["rows"])}


def _estimate(values: dict[str, Any], name: str) -> dict[str, Any] | None:
    if values[name] is None:
        return None
    low, high = values[f"{name}_interval"]
    return {"value": values[name], "low": low, "high": high}


def _known(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """A measured value, or None where there is only a reason why there is none."""
    return found if found and found["value"] is not None else None


SHARES = {"Agreement", "Chose the left answer"}
"""Columns that are printed as percentages."""
SUGGESTION_EFFECT = "Swayed, in points"


def _table(first: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Headings, and rows of (heading, text, smaller text) without the columns that are empty or 0 in all rows."""
    names = list(next(iter(rows.values()), {}))
    kept = [name for name in names if any(row[name] not in (None, 0) for row in rows.values())]
    return {
        "headings": [first, *kept],
        "rows": [(name, [(column, *_cell(column, row[column])) for column in kept]) for name, row in rows.items()],
    }


def _cell(column: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return "–", ""
    if isinstance(value, tuple):
        return value  # made already
    if not isinstance(value, dict):
        return str(value), ""
    if "hits" in value and column not in SHARES:
        return f"{value['hits']} of {value['n']}", ""
    form = points if column == SUGGESTION_EFFECT else share if column in SHARES else number
    return form(value["value"]), bounds(value, form)
