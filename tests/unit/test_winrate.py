import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import DataError
from align.evaluation.winrate import outcome, win_rate


def test_all_pairs_of_samples_are_compared_and_ties_are_half() -> None:
    found = win_rate([[2.0, 1.0], [0.0]], [[1.0], [0.0, 5.0]], ["p", "q"], tie_width=0.0, seed=0)
    # p: 2>1 win, 1=1 tie; q: 0=0 tie, 0<5 loss
    assert (found.wins, found.ties, found.losses, found.unscored) == (1, 2, 1, 0)
    assert (found.mean, found.n, found.clusters) == (0.5, 4, 2)


def test_unscored_answers_are_counted_and_never_a_tie() -> None:
    found = win_rate([[1.0, None], [1.0]], [[0.0, 0.0], [None, 0.0]], ["p", "q"], tie_width=0.0, seed=0)
    assert (found.wins, found.ties, found.losses, found.unscored, found.n) == (3, 0, 0, 3, 3)
    assert found.mean == 1.0


@pytest.mark.parametrize(
    "new, old, width, value",
    [(1.0, 1.0, 0.0, 0.5), (1.1, 1.0, 0.0, 1.0), (1.0, 1.25, 0.5, 0.5), (1.5, 1.0, 0.5, 1.0), (0.0, 9.0, 1.0, 0.0)],
)
def test_a_tie_is_closer_than_the_tie_width_or_equal(new: float, old: float, width: float, value: float) -> None:
    assert outcome(new, old, width) == value


def test_ten_wins_of_ten_are_not_certainty() -> None:
    found = win_rate([[1.0]] * 10, [[0.0]] * 10, [str(i) for i in range(10)], tie_width=0.0, seed=0)
    assert found.mean == found.high == 1.0 and found.low == pytest.approx(0.7225, abs=5e-4)


def test_a_policy_against_itself_is_even() -> None:
    scores = [[float(i % 3), float(i % 5)] for i in range(30)]
    found = win_rate(scores, scores, [str(i) for i in range(30)], tie_width=0.0, seed=0)
    assert found.mean == 0.5 and found.low <= 0.5 <= found.high and found.wins == found.losses


@pytest.mark.parametrize(
    "new, old, clusters, message",
    [
        ([[None], [1.0]], [[1.0], [None]], ["p", "q"], "none of 2 pairs of answers could be scored"),
        ([[1.0]], [[0.0]], ["p"], "one cluster"),
        ([[1.0]], [[0.0], [0.0]], ["p"], "1 new and 2 old rows for 1 names"),
        ([], [], [], "none of 0 pairs"),
    ],
)
def test_no_win_rate_without_a_reason(
    new: list[list[float | None]], old: list[list[float | None]], clusters: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        win_rate(new, old, clusters, tie_width=0.0, seed=0)


SCORES = st.lists(st.lists(st.one_of(st.none(), st.floats(-3, 3)), min_size=1, max_size=3), min_size=6, max_size=6)


@settings(max_examples=40, deadline=None)
@given(SCORES, SCORES, st.floats(0, 1))
def test_swapping_the_sides_mirrors_everything(
    new: list[list[float | None]], old: list[list[float | None]], width: float
) -> None:
    names = list("abcdef")
    scored = {
        n
        for n, a, b in zip(names, new, old, strict=True)
        if any(x is not None for x in a) and any(x is not None for x in b)
    }
    if len(scored) < 2:
        return
    there, back = (win_rate(a, b, names, tie_width=width, seed=1) for a, b in ((new, old), (old, new)))
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    assert there.mean == pytest.approx(1 - back.mean) and there.unscored == back.unscored
    assert there.n + there.unscored == sum(len(a) * len(b) for a, b in zip(new, old, strict=True))
    assert there.low == pytest.approx(1 - back.high, abs=0.05) and there.high == pytest.approx(1 - back.low, abs=0.05)
