"""The figure of a sweep: every trial in order, and its score against each searched setting. One SVG, no script."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from align.figures import counted, interval, significant
from align.report.plots import Frame, nice_ticks, tick_texts, widened

PANEL = (300.0, 200.0)
STYLE = (
    "svg{font:12px system-ui,sans-serif;background:#fff}.grid{stroke:#e3e6ea}.tick{fill:#5b6572}.head{fill:#1c232b;"
    "font-weight:600}.dot{fill:#2563c9;stroke:#fff}.dot.off{fill:none;stroke:#9aa4b0}.dot.best{fill:#d9480f}"
    ".bar{stroke:#2563c9;stroke-opacity:.35}.best-so-far{fill:none;stroke:#d9480f;stroke-width:1.5}"
    ".level{stroke:#5b6572;stroke-dasharray:4 3}"
)


def sweep_svg(result: dict[str, Any]) -> str:
    """`result` is what `align.sweep.sweep.sweep` returns. Pruned trials are hollow, at their last look; the best
    trial is orange, the starting settings a dashed line."""
    shown = [t for t in result["trials"] if t["value"] is not None]
    levels = [t[part] for t in shown for part in ("low", "high")]
    levels += [result["start_value"]] if result["start_value"] is not None else []
    ticks = nice_ticks(*widened(levels, (0, 1) if result["metric"] == "win_rate" else None))
    panels = [_in_order(result, shown, ticks)]
    panels += [_against(key, result, shown, ticks) for key in result["start"]]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = PANEL[0] * columns, PANEL[1] * rows
    placed = [
        Markup('<g transform="translate({:.0f} {:.0f})">{}</g>').format(
            PANEL[0] * (n % columns), PANEL[1] * (n // columns), panel
        )
        for n, panel in enumerate(panels)
    ]
    title = (
        f"{counted(len(result['trials']), 'trial')}, {str(result['metric']).replace('_', ' ')} on "
        f"{counted(result['tuning_prompts'], 'prompt')}"
    )
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" height="{:.0f}"'
            ' role="img" aria-label="{}"><style>{}</style>{}</svg>\n'
        ).format(width, height, width, height, escape(title), Markup(STYLE), Markup("").join(placed))
    )


def _in_order(result: dict[str, Any], shown: Sequence[dict[str, Any]], ticks: Sequence[float]) -> Markup:
    frame = _frame((0.5, len(result["trials"]) + 0.5), ticks)
    parts = [_axes(frame, ticks, f"trial, by {str(result['metric']).replace('_', ' ')}")]
    parts += [_tick(frame, x, str(x)) for x in sorted({1, len(result["trials"])})]
    if result["start_value"] is not None:
        y = frame.py(result["start_value"])
        parts.append(_line("level", frame.left, y, frame.width - frame.right, y, "starting settings"))
    best, path = -math.inf, list[tuple[float, float]]()
    for trial in shown:
        if trial["state"] == "complete" and trial["value"] > best:
            if path:
                path.append((trial["number"], best))
            best = trial["value"]
        if best > -math.inf:
            path.append((trial["number"], best))
    line = "M" + "L".join(f"{frame.px(x):.1f} {frame.py(y):.1f}" for x, y in path)
    parts.append(Markup('<path class="best-so-far" d="{}"/>').format(line))
    parts += [_dot(frame, trial["number"], trial, result) for trial in shown]
    return Markup("").join(parts)


def _against(key: str, result: dict[str, Any], shown: Sequence[dict[str, Any]], ticks: Sequence[float]) -> Markup:
    values = [trial["values"][key] for trial in shown]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and len(set(values)) > 4
    log = numbers and min(values) > 0 and max(values) / min(values) > 8
    choices = sorted(set(map(str, values)), key=lambda text: (len(text), text))

    def place(value: Any) -> float:
        return (math.log10(value) if log else float(value)) if numbers else float(choices.index(str(value)))

    xs = [place(value) for value in values]
    air = (max(xs) - min(xs)) * 0.08 or 0.5
    frame = _frame((min(xs) - air, max(xs) + air), ticks)
    parts = [_axes(frame, ticks, key + (", logarithmic" if log else ""))]
    named = sorted({values[xs.index(x)] for x in (min(xs), max(xs))}) if numbers else choices
    parts += [_tick(frame, place(v), f"{v:.3g}" if numbers else str(v)) for v in named]
    parts += [_dot(frame, x, trial, result) for x, trial in zip(xs, shown, strict=True)]
    return Markup("").join(parts)


def _frame(x: tuple[float, float], ticks: Sequence[float]) -> Frame:
    return Frame(*PANEL, x, (ticks[0], ticks[-1]), top=28)


def _axes(frame: Frame, ticks: Sequence[float], head: str) -> Markup:
    parts = [Markup('<text class="head" x="{:.1f}" y="16">{}</text>').format(frame.left, head)]
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        y = frame.py(tick)
        parts.append(_line("grid", frame.left, y, frame.width - frame.right, y))
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(
                frame.left - 6, y + 4, text
            )
        )
    return Markup("").join(parts)


def _tick(frame: Frame, x: float, text: str) -> Markup:
    return Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
        frame.px(x), frame.height - 10, text
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float, title: str = "") -> Markup:
    inside = Markup("<title>{}</title>").format(title) if title else ""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}">{}</line>').format(
        kind, x1, y1, x2, y2, inside
    )


def _dot(frame: Frame, x: float, trial: dict[str, Any], result: dict[str, Any]) -> Markup:
    """A trial with its interval; what it was stands in the tooltip."""
    whole = trial["state"] == "complete"
    kind = "dot best" if trial["number"] == result["best_trial"] else "dot" if whole else "dot off"
    px, said = frame.px(x), ", ".join(f"{k} {v}" for k, v in trial["values"].items())
    text = f"trial {trial['number']}: {interval(trial, significant)}, {said}"
    bar = _line("bar", px, frame.py(trial["low"]), px, frame.py(trial["high"])) if whole else Markup("")
    return bar + Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
        kind, px, frame.py(trial["value"]), f"{text} ({trial['state']})"
    )
