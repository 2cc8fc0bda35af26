"""The report's pictures: inline SVG, drawn here, without a script and without a request.

Colours come from the page's style sheet by class, so that a picture follows light, dark and print. Every text in a
picture is escaped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from align import figures

Points = Sequence[tuple[float, float]]
MOST_POINTS = 240
"""A longer curve is drawn as means over equal stretches."""
MOST_LABELS = 15
"""With more rounds than this, only every n-th is named below the plot."""
MOST_VALUES = 6
"""With more rounds than this, values stand in the tooltips and the table only."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value at `x` with its interval; `low` and `high` are the value itself where there is none."""

    x: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """`kind` is `main` or `other`: the style sheet gives it colour and shape."""

    name: str
    kind: str
    estimates: Sequence[Estimate]


@dataclass(frozen=True, slots=True)
class Frame:
    """A plot's area in SVG units and what its edges stand for. What lies beyond them is drawn at the edge."""

    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 46
    right: float = 14
    top: float = 14
    bottom: float = 30

    def px(self, x: float) -> float:
        share = (_between(x, *self.x) - self.x[0]) / (self.x[1] - self.x[0])
        return self.left + share * (self.width - self.left - self.right)

    def py(self, y: float) -> float:
        share = (self.y[1] - _between(y, *self.y)) / (self.y[1] - self.y[0])
        return self.top + share * (self.height - self.top - self.bottom)


def estimates_plot(
    series: Sequence[Series],
    *,
    title: str,
    labels: dict[int, str],
    form: Callable[[float], str],
    line: tuple[float, str] | None = None,
    bounds: tuple[float, float] | None = None,
    zero: bool = False,
    size: tuple[float, float] = (360, 190),
) -> Markup:
    """Values with intervals over rounds. `labels` names each x; `line` is a dashed level with its text; `bounds` are
    limits that the scale does not pass (0 and 1 for shares); `zero` starts the scale there; `form` writes a value."""
    values = [v for s in series for e in s.estimates for v in (e.low, e.high)] + ([line[0]] if line else [])
    low, high = widened(values, bounds)
    ticks = nice_ticks(0.0 if zero else low, high)
    xs = sorted(labels)
    frame = Frame(*size, (xs[0] - 0.5, xs[-1] + 0.5), (ticks[0], ticks[-1]))
    parts = [_grid(frame, ticks), _x_labels(frame, labels)]
    if line is not None:
        parts.append(_line("level", frame.left, frame.py(line[0]), frame.width - frame.right, frame.py(line[0])))
    spread = 0.13 if len(series) > 1 else 0.0
    for number, one in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 2 * spread
        parts.append(_estimates(frame, one, shift, form, len(xs) <= MOST_VALUES))
    if line is not None:
        parts.append(_level_text(frame, [e for one in series for e in one.estimates], *line))
    return _svg(frame, title, parts)


def _level_text(frame: Frame, estimates: Sequence[Estimate], value: float, text: str) -> Markup:
    """Above the dashed line, at its end where no bar stands in the way: the left one if it may be."""
    reach = 18 * (frame.y[1] - frame.y[0]) / (frame.height - frame.top - frame.bottom)

    def free(x: int) -> bool:
        return all(e.high < value or e.low > value + reach for e in estimates if e.x == x)

    first, last = (found(e.x for e in estimates) for found in (min, max))
    if free(first) or not free(last):
        return _text("level-text", frame.left + 4, frame.py(value) - 5, text)
    return _text("level-text", frame.width - frame.right - 4, frame.py(value) - 5, text, anchor="end")


def curves_plot(
    curves: Sequence[tuple[str, int, Points]],
    *,
    title: str,
    bounds: tuple[float, float] | None = None,
    size: tuple[float, float] = (400, 190),
    unit: str = "step",
) -> Markup:
    """Lines over training steps, or another `unit`: (name, number for its colour, points in their order, finite);
    `bounds` as in `estimates_plot`."""
    thin = [(name, colour, thinned(points)) for name, colour, points in curves]
    ticks = nice_ticks(*widened([y for _, _, points in thin for _, y in points], bounds), wanted=4)
    last = max(x for _, _, points in thin for x, _ in points)
    first = min(x for _, _, points in thin for x, _ in points)
    frame = Frame(*size, (min(first, last - 1), last), (ticks[0], ticks[-1]))
    parts = [_grid(frame, ticks)]
    parts.append(_text("tick", frame.left, frame.height - 8, f"{first:.0f}", anchor="start"))
    parts.append(_text("tick", frame.width - frame.right, frame.height - 8, f"{unit} {last:.0f}", anchor="end"))
    for name, colour, points in thin:
        path = "M" + "L".join(f"{frame.px(x):.1f} {frame.py(y):.1f}" for x, y in points)
        parts.append(Markup('<path class="curve k{}" d="{}"><title>{}</title></path>').format(colour, path, name))
    return _svg(frame, title, parts)


def reliability_plot(
    curves: Sequence[tuple[str, str, Sequence[Mapping[str, float]]]],
    *,
    title: str,
    size: tuple[float, float] = (400, 300),
) -> Markup:
    """A reliability diagram: (name, kind for its colour, `reward.calibrate.reliability`'s bins) of each way to tell
    probabilities. Right of the diagonal a model is surer than it is right."""
    bins = [one for _, _, found in curves for one in found]
    x_ticks = nice_ticks(0.5, max(0.55, *(one["confidence"] for one in bins)))
    values = [one.get(name, one["observed"]) for one in bins for name in ("observed", "low", "high")]
    y_ticks = nice_ticks(min(0.5, *values), max(x_ticks[-1], *values))
    frame = Frame(*size, (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]), top=28, bottom=46)
    parts = [_grid(frame, y_ticks)]
    for tick, text in zip(x_ticks, tick_texts(x_ticks), strict=True):
        parts.append(_text("tick", frame.px(tick), frame.height - 28, text, anchor="middle"))
    parts.append(_text("level-text", frame.px(x_ticks[-1]), frame.height - 8, "confidence of the model", anchor="end"))
    parts.append(_text("level-text", 2, 12, "how often people agree"))
    parts.append(_line("level", *(side(at) for at in (x_ticks[0], x_ticks[-1]) for side in (frame.px, frame.py))))
    for name, kind, found in curves:
        drawn = Markup("").join(_bin(frame, name, one) for one in found)
        parts.append(Markup('<g class="{}">{}</g>').format(kind, drawn))
    return _svg(frame, title, parts)


def slices_plot(
    groups: Sequence[tuple[str, Sequence[tuple[str, float, float, float, int]]]],
    *,
    title: str,
    line: tuple[float, str],
    width: float = 400,
) -> Markup:
    """Shares with intervals, one beneath the other: (heading, rows of (name, value, low, high, number of pairs))."""
    values = [v for _, rows in groups for row in rows for v in row[1:4]] + [line[0]]
    ticks = nice_ticks(max(0.0, min(values)), min(1.0, max(values)), wanted=3)
    places = [(heading, row) for heading, rows in groups for row in (None, *rows)]
    frame = Frame(width, 20 * len(places) + 40, (ticks[0], ticks[-1]), (0, 1), left=190)
    parts = []
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        x = frame.px(tick)
        parts.append(_line("grid", x, frame.top, x, frame.height - frame.bottom + 6))
        parts.append(_text("tick", x, frame.height - 8, text, anchor="middle"))
    parts.append(_line("level", frame.px(line[0]), frame.top, frame.px(line[0]), frame.height - frame.bottom + 6))
    for number, (heading, row) in enumerate(places):
        y = frame.top + 20 * number + 10
        if row is None:
            parts.append(_text("value", 0, y + 4, heading))
            continue
        name, value, low, high, pairs = row
        parts.append(_text("tick", 10, y + 4, name))
        said = f"{heading}, {name}: {figures.interval({'mean': value, 'low': low, 'high': high})}, {figures.counted(pairs, 'pair')}"
        drawn = [_line("bar", frame.px(low), y, frame.px(high), y)] if low < high else []
        dot = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>')
        drawn.append(dot.format(frame.px(value), y, said))
        parts.append(Markup('<g class="main">{}</g>').format(Markup("").join(drawn)))
    return _svg(frame, title, parts)


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means over equal stretches, not every n-th, so that nothing is picked."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    stride = math.ceil(len(finite) / most) if finite else 1
    groups = [finite[i : i + stride] for i in range(0, len(finite), stride)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers whose first and last enclose [low, high]; of a single number those around it, and
    none of them beyond 0 or 1 where it is not.

    >>> nice_ticks(0.46, 0.83), nice_ticks(0.5, 0.5)
    ([0.4, 0.5, 0.6, 0.7, 0.8, 0.9], [0.44, 0.46, 0.48, 0.5, 0.52, 0.54, 0.56])
    """
    if low == high:
        low, high = widened([low], (0, 1) if 0 <= low <= 1 else None)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """With as many decimals as the ticks need, all alike.

    >>> tick_texts([-0.5, 0.0, 0.5])
    ['−0.5', '0.0', '0.5']
    """
    decimals = next((d for d in range(8) if all(math.isclose(t, round(t, d), abs_tol=1e-9) for t in ticks)), 8)
    return [f"{t:.{decimals}f}".replace("-", "−") for t in ticks]


def widened(values: Sequence[float], bounds: tuple[float, float] | None) -> tuple[float, float]:
    """The range of `values` with some air, within `bounds`; never empty, and never on the other side of 0 for the air
    alone: where nothing is negative, neither is the scale."""
    least, most = min(values), max(values)
    air = (most - least) * 0.08 or abs(most) * 0.1 or 1.0
    low = max(least - air, 0.0) if least >= 0 else least - air
    high = min(most + air, 0.0) if most < 0 else most + air
    return (max(low, bounds[0]), min(high, bounds[1])) if bounds else (low, high)


def _between(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _estimates(frame: Frame, series: Series, shift: float, form: Callable[[float], str], written: bool) -> Markup:
    parts = []
    points = [(frame.px(e.x + shift), frame.py(e.value)) for e in series.estimates]
    if len(points) > 1 and series.kind == "main":  # each parent is another policy, so those points are no course
        parts.append(
            Markup('<path class="thread" d="{}"/>').format("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))
        )
    for estimate, (x, y) in zip(series.estimates, points, strict=True):
        text = f"{series.name}, round {estimate.x}: {form(estimate.value)}"
        if estimate.low < estimate.high:
            parts.append(_line("bar", x, frame.py(estimate.low), x, frame.py(estimate.high)))
            text += f" {figures.bounds({'low': estimate.low, 'high': estimate.high}, form)}"
        parts.append(
            Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>').format(x, y, text)
        )
        if written and series.kind == "main":
            parts.append(_text("value", x - 9, y + 4, form(estimate.value), anchor="end"))
    return Markup('<g class="{}">{}</g>').format(series.kind, Markup("").join(parts))


def _bin(frame: Frame, name: str, found: Mapping[str, float]) -> Markup:
    """One bin of a reliability diagram, with its interval where it has one."""
    x, y = frame.px(found["confidence"]), frame.py(found["observed"])
    text = f"{name}: confidence {figures.number(found['confidence'])}, observed {figures.number(found['observed'])}"
    bar = Markup("")
    if "low" in found:
        bar = _line("bar", x, frame.py(found["low"]), x, frame.py(found["high"]))
        text += f" {figures.bounds(found)}"
    return bar + Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>').format(
        x, y, f"{text}, {figures.counted(round(found['n']), 'pair')}"
    )


def _grid(frame: Frame, ticks: Sequence[float]) -> Markup:
    parts = []
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        y = frame.py(tick)
        parts.append(_line("grid", frame.left, y, frame.width - frame.right, y))
        parts.append(_text("tick", frame.left - 6, y + 4, text, anchor="end"))
    return Markup("").join(parts)


def _x_labels(frame: Frame, labels: dict[int, str]) -> Markup:
    every = math.ceil(len(labels) / MOST_LABELS)
    shown = sorted(labels)[:: max(every, 1)]
    return Markup("").join(_text("tick", frame.px(x), frame.height - 8, labels[x], anchor="middle") for x in shown)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _svg(frame: Frame, title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        frame.width, frame.height, escape(title), Markup("").join(parts)
    )
