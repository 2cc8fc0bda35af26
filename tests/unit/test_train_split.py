"""What is held out from a training, and what is said of one that measured it."""

from align.pipeline.stage import Ref
from align.report.data import _of_trainings
from align.sampled import Sampled
from align.stages.stage_io import note_of
from align.train.split import encoded_apart, outcome
from align.types import Dropped

TOLD = {
    "prompts": 5, "rows": 6, "before": {"loss": 2.5}, "after": {"loss": 1.25}, "published_step": 6, "last_step": 12,
    "planned_steps": 40, "stopped_early": True,
}  # fmt: skip
STOPPED = (
    "training stopped early, after 12 of 40 steps; what is published is the model as it was after 6, where the held-out "
    "loss was lowest (1.25; before training 2.5)"
)


def test_what_is_said_of_it() -> None:
    assert outcome(TOLD) == STOPPED
    whole = {**TOLD, "last_step": 40, "stopped_early": False}
    assert (outcome(whole) or "").startswith(
        "training went through all 40 steps; what is published is the model as it was"
    )
    assert outcome({**whole, "published_step": 40}) is None
    metrics = {"rows": 20, "dropped": {}, "held_out": TOLD}
    assert note_of("preference", metrics) == {"notes": [STOPPED]}
    assert note_of("preference", {"rows": 20, "dropped": {}, "held_out": {"accuracy": None}}) == {}, "a reward model's"
    assert note_of("preference", {"rows": 1, "dropped": {"too long": 9}, "held_out": TOLD})["notes"][1] == STOPPED


def test_the_report_says_it() -> None:
    class Receipt:
        summary = metrics = {"held_out": TOLD}

    class Run:
        receipts = {Ref(2, "policy"): Receipt()}

    assert _of_trainings(Run()) == [f"Round 2: {STOPPED}."]  # type: ignore[arg-type]


def test_a_dropped_row_has_its_place_in_the_file() -> None:
    def encode(rows: list[int]) -> tuple[list[str], list[Dropped]]:
        bad = [Dropped("pair", f"row {place}", "too long") for place, row in enumerate(rows, 1) if row == 7]
        return [str(row) for row in rows if row != 7], bad

    rows, prompts = list(range(20)), [f"prompt {n}" for n in range(20)]
    off = encoded_apart(encode, rows, prompts, 0.0, "dpo.held_out", Sampled({}, None))
    on = encoded_apart(encode, rows, prompts, 0.4, "dpo.held_out", Sampled({}, None))
    assert off.dropped == on.dropped == [Dropped("pair", "row 8", "too long")]
    assert sorted([*on.learned, *on.measured], key=int) == off.learned
    assert on.prompts == [f"prompt {row}" for row in on.measured]
