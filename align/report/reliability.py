"""A reward model's reliability diagram as a file of its own."""

from typing import Any

from markupsafe import Markup, escape

from align.report.plots import reliability_plot

BEFORE, AFTER = "as the scores say", "with the temperature"
STYLE = (
    "svg{font:12px system-ui,sans-serif;background:#fff}.grid{stroke:#e3e6ea}.tick,.level-text{fill:#5b6572;"
    "font-size:11.5px}.level{stroke:#5b6572;stroke-dasharray:4 4}.bar{stroke:currentColor;stroke-width:7;"
    "opacity:.3}.dot{fill:currentColor;stroke:#fff;stroke-width:1.5}.main{color:#0b6e63}"
    ".other{color:#b8650b}.key{fill:#1c2024}"
)
KINDS = {AFTER: "main", BEFORE: "other"}


def diagram(calibration: dict[str, Any], title: str) -> Markup:
    """The diagram of `reward.calibrate.calibration`, before and after, in the page's style."""
    curves = [
        (BEFORE, KINDS[BEFORE], calibration["before"]["bins"]),
        (AFTER, KINDS[AFTER], calibration["after"]["bins"]),
    ]
    return reliability_plot(curves, title=title)


def reliability_svg(calibration: dict[str, Any], title: str) -> str:
    """The same as an SVG file: it needs no style sheet, loads nothing and runs nothing."""
    keys = [
        Markup('<g class="{}"><circle class="dot" cx="{}" cy="339" r="5"/></g><text class="key" x="{}" y="343">{}</text>').format(
            kind, 56 + 180 * n, 66 + 180 * n, name
        )
        for n, (name, kind) in enumerate(KINDS.items())
    ]  # fmt: skip
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 352" width="600" height="528" role="img"'
            ' aria-label="{}"><style>{}</style><text class="key" x="46" y="18">{}</text>'
            '<svg y="24" width="400" height="300">{}</svg>{}</svg>\n'
        ).format(escape(title), Markup(STYLE), title, diagram(calibration, title), Markup("").join(keys))
    )
