"""Every benchmark runs with no argument, takes `--short`, and ends with one JSON object."""

from pathlib import Path

import pytest

PROGRAMS = [f for f in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if "__main__" in f.read_text("utf-8")]


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: str(file.name))
def test_a_benchmark_is_run_as_the_others_are(file: Path) -> None:
    """`make bench` gives each the same arguments, and stops at the first that fails."""
    text = file.read_text("utf-8")
    assert '"--short"' in text and "required=True" not in text
    assert all(f'"{key}"' in text for key in ("name", "value", "baseline", "ratio", "goal", "ok"))
