"""What `align annotate status` and the closing's reason say: counts that are what their words say."""

from dataclasses import replace

from align.cli.status import _lines, _rows, winner
from align.labelling.session import dropped_text, short_text
from align.labelling.survey import SILENT, Survey
from align.types import Dropped
from annotation.annotators import time_left
from annotation.backend import progress_of

PACE = {"tasks_per_hour": 60.0, "seconds": 60.0, "n": 9}


def survey(status: dict[str, dict[str, str]], wanted: int, present: set[str], pace: dict[str, object] = PACE) -> Survey:
    progress = progress_of(status, wanted, present)
    people = {
        name: {
            "name": name, "submitted": count.submitted, "skipped": count.skipped, "drafts": count.drafts, "pace": pace,
            **dict.fromkeys(("agreement", "gold", "left", "consistency"), SILENT),
        }
        for name, count in progress.annotators.items()
    }  # fmt: skip
    return Survey("http://here", None, progress, people, [], time_left(progress, people), [], 0, {})


def test_a_task_that_one_skipped_and_another_answered_was_not_skipped_by_everyone() -> None:
    found = survey({"t0": {"ann": "skipped", "bob": "submitted"}, "t1": {"ann": "submitted"}}, 2, {"ann", "bob"})
    assert _lines(found)[0] == (
        "0 of 2 tasks are complete; 2 of 4 answers are in; 1 task has fewer answers than wanted, for everybody has answered or "
        "skipped; time left: 1 min 0 s for 1 person; 1 answer needs a new annotator"
    )
    assert short_text(2) == "2 tasks have fewer answers than wanted, for everybody has answered or skipped"
    assert short_text(0) == ""


def test_time_left_is_said_of_what_somebody_here_can_give() -> None:
    both = survey({f"t{n}": {} for n in range(30)}, 2, {"ann", "bob"})
    assert _lines(both)[0].endswith("; time left: 30 min 0 s for 2 people together")
    done = survey({"t": {"ann": "submitted", "bob": "submitted"}}, 2, {"ann", "bob"})
    assert _lines(done)[0] == "1 of 1 tasks are complete; 2 of 2 answers are in; none is missing"
    alone = survey({"t": {"ann": "submitted"}}, 3, {"ann"})
    assert _lines(alone)[0].endswith("for everybody has answered or skipped; 2 answers need a new annotator")
    unknown = survey({"t": {"ann": "submitted"}}, 2, {"ann", "bob"}, {"tasks_per_hour": None, "reason": "one answer"})
    assert _lines(unknown)[0].endswith(
        "; time left: unknown (the pace of those who have something left to do is not known yet)"
    )


def test_drafts_are_shown_by_person_and_in_all() -> None:
    found = survey({"t0": {"ann": "draft"}, "t1": {"ann": "draft"}, "t2": {"ann": "submitted", "bob": "draft"}}, 1, {"ann", "bob"})  # fmt: skip
    assert _lines(found)[-1] == "3 drafts are not submitted yet, and not counted"
    assert [row[:4] for row in _rows(found)] == [["ann", "1", "0", "2"], ["bob", "0", "0", "1"]]
    one = survey({"t0": {"ann": "draft"}}, 1, {"ann"})
    assert _lines(one)[-1] == "1 draft is not submitted yet, and not counted"
    closed = replace(one, closed="closed by `align annotate close`", late=1)
    assert _lines(closed)[1:] == [
        "closed: closed by `align annotate close`",
        "1 answer came after the closing and does not count; `align annotate reopen` counts it",
        "1 draft is not submitted yet, and not counted",
    ]


def test_what_is_left_out_has_one_name() -> None:
    assert dropped_text([Dropped("task", "t1", "gone")]) == "dropped: task t1 (gone)"


def test_a_blind_comparison_of_one_prompt_is_counted_in_the_singular() -> None:
    won = {
        "mean": 1.0,
        "low": 0.2,
        "high": 1.0,
        "clusters": 1,
        "wins": 1,
        "ties": 0,
        "losses": 1,
        "same": 0,
        "both_bad": 0,
    }
    assert winner(won) == (
        "win rate of --candidates over --against: 1.00 [0.20, 1.00], 95% interval over 1 prompt; "
        "1 win, 0 ties (0 without asking, 0 both bad), 1 loss"
    )
