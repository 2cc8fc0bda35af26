"""Passes side by side: the same gradients as one after the other, the same bits each time, and only where it is safe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from align.config.training import Lora
from align.train import lanes
from tests.integration.test_train_dpo import make_trainer, parent, train  # noqa: F401
from tests.integration.test_train_passes import RAGGED, step


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_what_is_dealt_is_even_the_large_ones_are_apart_and_no_lane_is_empty() -> None:
    assert lanes.deal([5, 9, 4, 4, 1], 2) == [[1, 3], [4, 2, 0]]
    assert lanes.deal([3], 2) == [[0]]
    assert lanes.deal([], 2) == []


def test_works_meet_in_threads_of_their_own_with_their_share_of_the_cores() -> None:
    barrier = threading.Barrier(2, timeout=20)

    def work(number: int) -> tuple[int, int]:
        barrier.wait()  # only two at a time come past it
        return number, torch.get_num_threads()

    assert lanes.side_by_side([partial(work, 0), partial(work, 1)]) == [(0, 1), (1, 1)]
    assert torch.get_num_threads() == 2
    assert lanes.side_by_side([torch.get_num_threads]) == [2]


def test_what_a_lane_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        lanes.side_by_side([lambda: 1.0, lambda: 1 / 0])
    assert torch.get_num_threads() == 2


def test_gradients_that_autograd_gives_to_two_weights_are_added_up_apart() -> None:
    a, b, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    sums = lanes.Gradients([a, b, unused])
    sums.add_loss((a + b).sum())
    sums.add_loss((3 * a).sum())
    assert sums.sums[0] is not None and sums.sums[1] is not None
    assert (sums.sums[0].tolist(), sums.sums[1].tolist(), sums.sums[2]) == ([4, 4], [1, 1], None)


def moved(trainer: Any) -> Any:
    """The trainer with its weights away from the parent's, so that margins are not 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in trainer.model.parameters():
            weights += 0.05 * torch.randn_like(weights)
    return trainer


@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4)}], ids=["full", "lora"])
def test_two_lanes_give_the_step_of_one(parent: Path, tmp_path: Path, changes: dict[str, Any]) -> None:  # noqa: F811
    def one_step(count: int) -> tuple[float, dict[str, Any], dict[str, float]]:
        trainer = moved(
            make_trainer(parent, RAGGED, tmp_path / "work", 2, batch_size=8, micro_batch_tokens=400, **changes)
        )
        assert (trainer.lanes, trainer.data_collator.tokens) == (2, 200)
        parts = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])["passes"]
        assert len(parts) > 3
        trainer.data_collator = replace(trainer.data_collator, lanes=count)
        return step(trainer, range(8))

    loss, gradients, metrics = one_step(1)
    both_loss, both_gradients, both_metrics = one_step(2)
    assert both_loss == pytest.approx(loss, abs=1e-6)
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3
    assert gradients.keys() == both_gradients.keys()
    assert all(torch.allclose(gradients[name], g, atol=1e-6) for name, g in both_gradients.items())
    assert both_metrics == pytest.approx(metrics, rel=1e-5)
    again_loss, again_gradients, again_metrics = one_step(2)
    assert (again_loss, again_metrics) == (both_loss, both_metrics)
    assert all(torch.equal(both_gradients[name], g) for name, g in again_gradients.items())


def test_a_training_in_two_lanes_ends_with_the_same_bytes_each_time(parent: Path, tmp_path: Path) -> None:  # noqa: F811
    found = [train(parent, tmp_path / name, RAGGED, micro_batch_tokens=400, threads=2) for name in ("one", "two")]
    assert found[0] == found[1]
    one, two = ((tmp_path / name / "out/model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_reference_is_the_same_in_one_lane(parent: Path, tmp_path: Path) -> None:  # noqa: F811
    trainer = make_trainer(parent, RAGGED, tmp_path / "work", 2, batch_size=8, micro_batch_tokens=400, lora=Lora(r=4))
    collator = replace(trainer.data_collator, tokens=150)
    batches = collator([trainer.train_dataset[row] for row in range(12)])["passes"]
    found = []
    for count in (2, 1):
        trainer.data_collator = replace(trainer.data_collator, lanes=count)
        found.append([(chosen.tolist(), rejected.tolist()) for chosen, rejected in trainer.reference_logps(batches)])
    assert len(batches) > 3
    for one, other in zip(*found, strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
        assert one[1] == pytest.approx(other[1], abs=1e-4)


@pytest.mark.parametrize("what", ["dropout", "rope", "threads", "checkpointing", "large", "several", "none"])
def test_one_lane_where_passes_could_disturb_each_other_or_gain_nothing(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str  # noqa: F811
) -> None:  # fmt: skip
    model = make_trainer(parent, RAGGED, tmp_path / "work", 2).model
    if what == "dropout":
        model.add_module("noise", torch.nn.Dropout(0.1))
    if what == "rope":
        model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    if what == "threads":
        torch.set_num_threads(1)
    if what == "large":
        monkeypatch.setattr(lanes, "MOST_TRAINED", 100)
    if what == "several":
        monkeypatch.setenv("WORLD_SIZE", "2")
    found = lanes.lanes_for(model, model.config, torch.device("cpu"), checkpointing=what == "checkpointing")
    assert found == (2 if what == "none" else 1)
