"""Chunks of similar length: every row once, no token lost, gradients as in one pass."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.train.padding_free import by_chunks, chunks


def masked(lengths: list[tuple[int, int]]) -> tuple[torch.Tensor, int]:
    """The attention mask of (prompt, answer) lengths, and the columns of answers."""
    width, answer = max(p for p, _ in lengths), max(a for _, a in lengths)
    rows = [[0] * (width - p) + [1] * p + [1] * a + [0] * (answer - a) for p, a in lengths]
    return torch.tensor(rows), answer


def test_the_shortest_come_first_and_padding_is_cut_on_both_sides() -> None:
    mask, answer = masked([(2, 9), (5, 1), (1, 2), (1, 1)])
    found = [(c.rows.tolist(), c.columns, c.answer) for c in chunks(mask, answer, tokens=8)]
    assert found == [([3, 2], slice(4, 7), 2), ([1], slice(0, 6), 1), ([0], slice(3, 14), 9)]
    assert [c.rows.tolist() for c in chunks(mask, answer, tokens=99, most_rows=3)] == [[3, 2, 1], [0]]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12),
    st.integers(2, 60),
    st.integers(1, 2),
)
def test_chunks_together_are_the_whole(lengths: list[tuple[int, int]], tokens: int, lanes: int) -> None:
    if max(a for _, a in lengths) == 0:
        lengths = [*lengths, (1, 1)]
    mask, answer = masked(lengths)
    ids = (torch.arange(mask.numel()).view(mask.shape) * mask).double().requires_grad_()

    def compute(ids: torch.Tensor, mask: torch.Tensor, answer: int) -> tuple[torch.Tensor, None]:
        assert len(ids) == 1 or ids.numel() <= tokens // lanes
        return (ids * mask)[:, -answer:], None

    found, nothing = by_chunks(compute, ids, mask, answer, tokens=tokens, lanes=lanes)
    assert nothing is None
    assert found is not None
    torch.testing.assert_close(found, ids[:, -answer:] * mask[:, -answer:])
    found.sum().backward()  # type: ignore[no-untyped-call]
    expected = mask.clone()
    expected[:, :-answer] = 0
    assert torch.equal(ids.grad, expected.double())


def test_lanes_compute_without_gradients_where_none_are_wanted() -> None:
    mask, answer = masked([(2, 3), (1, 2)])
    weight = torch.ones(1, requires_grad=True)

    def compute(ids: torch.Tensor, mask: torch.Tensor, answer: int) -> list[torch.Tensor]:
        return [ids[:, -answer:] * weight]

    with torch.no_grad():
        assert not by_chunks(compute, mask, mask, answer, tokens=2, lanes=2)[0].requires_grad  # type: ignore[union-attr]
    assert by_chunks(compute, mask, mask, answer, tokens=2, lanes=2)[0].requires_grad  # type: ignore[union-attr]
