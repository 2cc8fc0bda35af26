"""A share of prompts that is measured while a training learns from the others: what is measured, that it stops early, and
that the best model is what is published."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from align.config.training import Dpo, Kto, Sft
from align.errors import DataError
from align.sampled import Sampled
from align.store import folder_files
from align.text import load_tokenizer
from align.train import checkpoint, held_out, loop
from align.train.dpo import train_dpo
from align.train.kto import train_kto
from align.train.sft import train_sft
from align.train.split import encoded_apart, is_held_out, opening
from align.types import BinaryLabel, Preference, prompt_id
from tests.ranks import run_together
from tests.tiny import make_tiny_model

WORDS = ["amber", "birch", "cedar", "delta", "ember", "frost", "grove", "haven", "inlet", "jetty", "knoll", "larch"]
ASKED = [[{"role": "user", "content": f"Case {n}: which word?"}] for n in range(24)]
NOISE = [(messages, f"{WORDS[(7 * n) % 12]} {WORDS[(5 * n + 3) % 12]}") for n, messages in enumerate(ASKED)]
"""Answers that nothing foretells: whoever learns the one by heart is the more wrong about the others."""
PAIRS = [
    Preference(
        f"p{n}", prompt_id(messages), messages, "a", "b", *(answer, WORDS[n % 12])[:: 1 if n % 2 else -1],
        0.5 if n == 3 else 0.9, 1.0 + n % 2, 0.0, 1, [],
    )
    for n, (messages, answer) in enumerate(NOISE)
]  # fmt: skip
BINARY = [
    BinaryLabel(f"t{n}", prompt_id(messages), messages, "c", answer, float(n % 3 > 0), 1.0, 1, [])
    for n, (messages, answer) in enumerate(NOISE)
]
HELD_ROWS = [2, 7, 10, 16, 17]
"""Those of the 24 prompts that a share of 0.3 holds out."""
HELD = {"held_out": 0.3, "eval_steps": 2, "patience": 3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("held_out") / "model", vocab_words=WORDS, seed=2)


def sft(model: Path, at: Path, *, progress: Any = None, **changes: Any) -> dict[str, Any]:
    config = Sft(demonstrations=Path("d"), **{"learning_rate": 1e-2, "batch_size": 4, "epochs": 12, **HELD, **changes})
    given: dict[str, Any] = {"seed": 1, "dtype": "float32", "report_to": [], "threads": 1, "progress": progress}
    return train_sft(model, NOISE, config, out=at / "out", work=at / "work", **given)


def measured(at: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (at / "out/logs/metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}


def loss_of(folder: Path, rows: list[Any]) -> float:
    """The mean loss of the answers' tokens, one row at a time, with nothing of ours but the tokens."""
    import torch

    model, tokenizer = checkpoint.load_model(folder, "float32"), load_tokenizer(folder)
    model.eval()
    total, count = 0.0, 0
    for messages, answer in rows:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"] + [2]
        with torch.no_grad():
            logps = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        total -= sum(float(logps[len(prompt) - 1 + n, token]) for n, token in enumerate(ids))
        count += len(ids)
    return total / count


def test_what_is_held_out_hangs_on_the_prompt_alone() -> None:
    held = [n for n in range(24) if is_held_out(prompt_id(ASKED[n]), 0.3)]
    assert held == [2, 7, 10, 16, 17] == HELD_ROWS
    apart = encoded_apart(
        lambda rows: (list(rows), []), range(24), [prompt_id(m) for m in ASKED], 0.3, "sft.held_out", Sampled({}, None)
    )
    assert (apart.measured, apart.dropped) == (held, [])
    assert apart.learned == [n for n in range(24) if n not in held]
    longer = [*ASKED[0], {"role": "assistant", "content": "amber"}, {"role": "user", "content": "and then?"}]
    assert opening(longer) == opening(ASKED[0]) == prompt_id(ASKED[0]), "a later turn is on its beginning's side"
    with pytest.raises(DataError) as caught:
        encoded_apart(
            lambda rows: (list(rows), []),
            range(3),
            [prompt_id(m) for m in ASKED[:3]],
            0.01,
            "sft.held_out",
            Sampled({}, None),
        )
    assert str(caught.value) == (
        "sft.held_out: of 3 prompts 0 are held out, and 3 rows are left to learn from; give more prompts, or another share"
    )


def test_it_stops_early_and_publishes_the_best(tiny: Path, tmp_path: Path) -> None:
    found = sft(tiny, tmp_path)
    losses = measured(tmp_path)
    best = min((loss, step) for step, loss in losses.items() if step > 0)[1]
    told = found["held_out"]
    assert (told["prompts"], told["rows"]) == (len(HELD_ROWS), len(HELD_ROWS))
    assert told["stopped_early"] and found["steps"] == best + 2 * 3 < 12 * math.ceil((24 - len(HELD_ROWS)) / 4)
    assert list(losses) == list(range(0, found["steps"] + 1, 2))
    assert told["published_step"] == best and told["after"]["loss"] == losses[best] < losses[found["steps"]]
    rows = [NOISE[n] for n in HELD_ROWS]
    assert told["before"]["loss"] == pytest.approx(loss_of(tiny, rows), abs=1e-5)
    assert told["after"]["loss"] == pytest.approx(loss_of(tmp_path / "out", rows), abs=1e-5), "what is published"
    assert not list((tmp_path / "out").glob("best-*"))


def test_without_patience_the_last_is_published(tiny: Path, tmp_path: Path) -> None:
    found = sft(tiny, tmp_path, patience=None, eval_steps=None, epochs=4)
    told, steps = found["held_out"], 4 * math.ceil((24 - len(HELD_ROWS)) / 4)
    assert (found["steps"], told["published_step"], told["stopped_early"]) == (steps, steps, False)
    rows = [NOISE[n] for n in HELD_ROWS]
    assert told["after"]["loss"] == pytest.approx(loss_of(tmp_path / "out", rows), abs=1e-5)
    assert list(measured(tmp_path)) == sorted({0, *range(0, steps, max(1, steps // 10)), steps})


def test_packing_and_micro_batches_measure_the_same(tiny: Path, tmp_path: Path) -> None:
    for name, changes in (
        ("one", {}),
        ("packed", {"packing": True, "max_tokens": 128}),
        ("micro", {"micro_batch_size": 1}),
    ):
        sft(tiny, tmp_path / name, patience=None, epochs=1, **changes)
    assert measured(tmp_path / "one")[0] == measured(tmp_path / "packed")[0] == measured(tmp_path / "micro")[0]
    assert measured(tmp_path / "micro")[4] == pytest.approx(measured(tmp_path / "one")[4], rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"lora": {"r": 4, "alpha": 64.0}}], ids=["full", "lora"])
def test_cut_short_it_ends_with_the_same_bytes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    whole = sft(tiny, tmp_path / "whole", **changes)
    best, last = whole["held_out"]["published_step"], whole["steps"]
    for step in (1, best, best + 1, last):  # at the best one, behind it, and where it is to stop

        def kill(done: int, total: int, said: str = "", *, step: int = step) -> None:
            if done == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sft(tiny, tmp_path / "cut", progress=kill, **changes)
    assert sft(tiny, tmp_path / "cut", **changes) == whole
    assert folder_files(tmp_path / "cut/out") == folder_files(tmp_path / "whole/out")
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")


def test_pairs_and_binary_labels_are_measured_too(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"seed": 1, "dtype": "float32", "report_to": [], "threads": 1}
    settings: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 4, "epochs": 12, **HELD}
    trainings: dict[str, Callable[..., dict[str, Any]]] = {
        "dpo": lambda **at: train_dpo(tiny, PAIRS, Dpo(**settings), **given, **at),
        "kto": lambda **at: train_kto(tiny, BINARY, Kto(**settings), **given, **at),
    }
    for name, train in trainings.items():
        found = train(out=tmp_path / name / "out", work=tmp_path / name / "work")
        losses, told = measured(tmp_path / name), found["held_out"]
        best = min((loss, step) for step, loss in losses.items() if step > 0)[1]
        assert told["stopped_early"] and told["published_step"] == best, name
        assert found["steps"] == best + 6, name
        assert told["before"]["accuracy"]["mean"] == 0.5, "the model is its own reference"
        accuracy = told["after"]["accuracy"]
        assert 0 <= accuracy["low"] <= accuracy["mean"] <= accuracy["high"] <= 1, name
        said = capfd.readouterr().err
        assert (name == "kto") or "step 0: held-out loss 0.6931  accuracy 0.500 [0.170, 0.830]\n" in said
    assert measured(tmp_path / "dpo")[0] == pytest.approx(math.log(2), abs=1e-6)
    _compare_with_published(tiny, tmp_path / "dpo")


def _compare_with_published(parent: Path, at: Path) -> None:
    """DPO's loss and accuracy again, from the published model and its parent."""
    rows = [PAIRS[n] for n in HELD_ROWS]

    def logps(folder: Path, row: Preference) -> tuple[float, float]:
        chosen, rejected = (
            -loss_of(folder, [(row.messages, text)]) * tokens(folder, text) for text in (row.chosen, row.rejected)
        )
        return chosen, rejected

    def tokens(folder: Path, text: str) -> int:
        return len(load_tokenizer(folder)(text, add_special_tokens=False)["input_ids"]) + 1

    margins = []
    for row in rows:
        (chosen, rejected), (ref_chosen, ref_rejected) = logps(at / "out", row), logps(parent, row)
        margins.append(0.1 * ((chosen - ref_chosen) - (rejected - ref_rejected)))
    mean = sum(row.weight for row in rows) / len(rows)
    expected = sum(
        row.weight / mean * (row.target * math.log1p(math.exp(-m)) + (1 - row.target) * math.log1p(math.exp(m)))
        for row, m in zip(rows, margins, strict=True)
    ) / len(rows)  # fmt: skip
    losses = [json.loads(line) for line in (at / "out/logs/metrics.jsonl").read_text().splitlines()]
    best = min((row for row in losses if "eval_loss" in row and row["step"] > 0), key=lambda row: row["eval_loss"])
    assert best["eval_loss"] == pytest.approx(expected, abs=1e-5)
    decided = [m > 0 for row, m in zip(rows, margins, strict=True) if row.target != 0.5]
    assert best["eval_accuracy"] == pytest.approx(sum(decided) / len(decided))


def test_the_head_works_where_tokens_are_taught_alone_and_its_logits_are_bounded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sft(tiny, tmp_path / "whole", patience=None, epochs=1)["held_out"]
    monkeypatch.setattr(held_out, "PLACES", 7)
    vocabulary, heads = len(load_tokenizer(tiny)), list[int]()

    class Heads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if "mm" in func.__name__ and found.shape[-1] == vocabulary:
                heads.append(found.numel() // vocabulary)
            return found

    real = held_out.answers_loss

    def seen(*given: Any) -> float:
        with Heads():
            return real(*given)

    monkeypatch.setattr(held_out, "answers_loss", seen)
    parts = sft(tiny, tmp_path / "parts", patience=None, epochs=1)["held_out"]
    assert [parts[at]["loss"] for at in ("before", "after")] == pytest.approx(
        [whole[at]["loss"] for at in ("before", "after")], abs=1e-6
    )
    assert heads == [6, 6, 3] * 4, "five answers of three tokens, at four measurements"


@pytest.mark.parametrize("label_noise", [None, 0.1])
def test_held_out_pairs_that_say_nothing_are_named(tiny: Path, tmp_path: Path, label_noise: float | None) -> None:
    """Under `robust` a target of one half weighs nothing: the rows that are learned from are fine."""
    rows = [replace(row, target=0.5 if n in HELD_ROWS else 0.9) for n, row in enumerate(PAIRS)]
    config = Dpo(loss="robust", label_noise=label_noise, learning_rate=1e-3, batch_size=4, epochs=1, held_out=0.3)
    given: dict[str, Any] = {"seed": 1, "dtype": "float32", "report_to": [], "threads": 1}
    given |= {"out": tmp_path / "out", "work": tmp_path / "work"}
    if label_noise is not None:
        told = train_dpo(tiny, rows, config, **given)["held_out"]
        assert told["rows"] == 5 and told["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        return
    with pytest.raises(DataError) as caught:
        train_dpo(tiny, rows, config, **given)
    assert str(caught.value) == (
        "dpo.held_out: every target of the 5 held-out pairs is 0.5, which under `loss: robust` says nothing; "
        "hold out another share, give `label_noise`, or another `loss`"
    )


@pytest.mark.slow
def test_two_processes_measure_and_stop_as_one(tiny: Path, tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-2, "batch_size": 4, "epochs": 6, "held_out": 0.4, "eval_steps": 1, "patience": 2}
    told = []
    for nproc in (1, 2):
        folder = tmp_path / str(nproc)
        process = run_together(folder, nproc, model=tiny, method="dpo", rows=24, settings=settings)
        assert process.wait(timeout=300) == 0, (folder / "log").read_text()
        told.append(json.loads((folder / "out/metrics.json").read_text())["held_out"])
    assert told[0]["rows"] == told[1]["rows"] and told[0]["published_step"] == told[1]["published_step"]
    assert told[0]["after"]["loss"] == pytest.approx(told[1]["after"]["loss"], rel=1e-4)


def test_off_it_leaves_no_trace_in_settings() -> None:
    """The keys of earlier runs' stages are made of these."""
    names = {"held_out", "eval_steps", "patience"}
    for config in (Sft(demonstrations=Path("d")), Dpo(), Kto()):
        assert not names & config.model_dump(mode="json").keys()
    on = Dpo(held_out=0.1, patience=2)
    assert {n: v for n, v in on.model_dump(mode="json").items() if n in names} == {"held_out": 0.1, "patience": 2}
    assert Dpo(**on.model_dump(mode="json")) == on
    with pytest.raises(ValueError, match="`patience` acts with `held_out` alone; give it a share of the prompts"):
        Dpo(patience=2)
