"""SFT on a tiny model: it learns answers, publishes a whole checkpoint, and a killed run ends with the same bytes."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.config.training import Lora, Sft
from align.errors import ConfigError, StageError
from align.progress import Progress
from align.store import folder_files, read_table
from align.text import load_tokenizer
from align.train import checkpoint, loop, verifying
from align.train.sft import train_sft
from tests.tiny import make_tiny_model

ANSWERS = ["It is on its way.", "We are sorry.", "You get a new one.", "Thank you, Anna!", "No.", "We will call you."]
ROWS = [([{"role": "user", "content": f"Case {n}: what now?"}], ANSWERS[n % 6]) for n in range(20)]


def stop_at(step: int) -> Progress:
    """Ends the training at that step, as a kill would: nothing is written after it."""

    def progress(done: int, total: int, said: str = "") -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("sft") / "model", vocab_words=" ".join(ANSWERS).split())


def train(model: Path, at: Path, rows: list[Any] = ROWS, *, progress: Any = None, **changes: Any) -> dict[str, Any]:
    dtype = changes.pop("dtype", "float32")
    config = Sft(demonstrations=Path("d"), **{"learning_rate": 3e-3, "batch_size": 4, "epochs": 2, **changes})
    return train_sft(
        model, rows, config, seed=1, dtype=dtype, report_to=[], threads=1, out=at / "out", work=at / "work", progress=progress
    )  # fmt: skip


def test_it_learns_the_answers_and_when_to_stop(tiny: Path, tmp_path: Path) -> None:
    import torch

    metrics = train(tiny, tmp_path, ROWS[:6], batch_size=6, epochs=200)
    assert metrics["steps"] == 200
    assert metrics["train_loss_last"] < 0.05 < 3 < metrics["train_loss_first"]
    assert metrics["reload_logp_difference"] == 0
    model = checkpoint.load_model(tmp_path / "out", "float32")
    tokenizer = load_tokenizer(tmp_path / "out")
    for messages, answer in ROWS[:6]:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        made = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40)[0, len(ids) :]
        assert tokenizer.decode(made) == answer + "<|im_end|>"


def test_the_loss_is_that_of_the_answers_tokens(tiny: Path, tmp_path: Path) -> None:
    metrics = train(tiny, tmp_path, batch_size=20, epochs=1)
    model = checkpoint.load_model(tiny, "float32")
    tokenizer = load_tokenizer(tiny)
    sums, tokens = 0.0, 0
    for messages, answer in ROWS:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"] + [2]
        sums += float(verifying.sequence_logps(model, [(prompt, ids)])[0]) * len(ids)
        tokens += len(ids)
    assert metrics["train_loss_first"] == pytest.approx(-sums / tokens, abs=1e-4)


def test_a_published_checkpoint_is_complete_and_only_that(tiny: Path, tmp_path: Path) -> None:
    long = ([{"role": "user", "content": "?"}], "word " * 300)
    metrics = train(tiny, tmp_path, [*ROWS, long])
    out = tmp_path / "out"
    assert set(folder_files(out)) == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "dropped.parquet",
    }  # fmt: skip
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    assert json.loads((out / "config.json").read_text()) == json.loads((tiny / "config.json").read_text())
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in out.glob("*.*"))
    assert metrics["dropped"] == {"longer than the model's context (512 tokens)": 1}
    assert read_table(out / "dropped.parquet").to_pylist()[0]["where"] == "row 21"
    assert [step for step, _ in losses(out)] == list(range(1, 11))
    assert json.loads((out / "logs/seconds.json").read_text()).keys() >= {"import", "encode", "train", "publish"}


def losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "logs/metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


@pytest.mark.parametrize(
    ("changes", "kills"),
    [
        ({}, (1, 4, 7, 10)),  # before the first save, in the first epoch, in the second, after the last step
        ({"micro_batch_size": 2}, (7,)),
        ({"lora": Lora(r=4, dropout=0.1)}, (7,)),
        ({"trainer": {"train_sampling_strategy": "random"}}, (7,)),
    ],
    ids=["full", "micro", "lora", "random order"],
)
def test_a_run_cut_short_ends_with_the_same_bytes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], kills: tuple[int, ...]
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    whole = train(tiny, tmp_path / "whole", **changes)
    for step in kills:
        with pytest.raises(KeyboardInterrupt):
            train(tiny, tmp_path / "cut", progress=stop_at(step), **changes)
        assert len(list((tmp_path / "cut/work").glob("checkpoint-*"))) == (step > 1)
    started: list[int] = []
    again = train(tiny, tmp_path / "cut", progress=lambda done, total, said="": started.append(done), **changes)
    assert started[0] == kills[-1]
    assert again == whole
    assert folder_files(tmp_path / "cut/out") == folder_files(tmp_path / "whole/out")
    assert losses(tmp_path / "cut/out") == losses(tmp_path / "whole/out")


def test_a_checkpoint_that_is_not_whole_or_of_another_training_is_not_used(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    for spoil in ("mark", "rows"):
        at = tmp_path / spoil
        with pytest.raises(KeyboardInterrupt):
            train(tiny, at, progress=stop_at(5))
        (folder,) = (at / "work").glob("checkpoint-*")
        if spoil == "mark":
            (folder / loop.MARK).unlink()
        started: list[int] = []
        told = train(
            tiny,
            at,
            ROWS[:8] if spoil == "rows" else ROWS,
            progress=lambda done, total, said="": started.append(done),  # noqa: B023
        )
        assert started[0] == 1
        assert told.get("thrown_away") == ("4 steps of another training (other rows)" if spoil == "rows" else None)
    at = tmp_path / "settings"
    with pytest.raises(KeyboardInterrupt):
        train(tiny, at, progress=stop_at(5))
    told = train(tiny, at, micro_batch_size=2)
    assert told["thrown_away"] == "4 steps of another training (micro_batch_size: None then, 2 now)"


CHILD = """
import math, os, signal, sys
from pathlib import Path
from tests.integration import test_train_sft as t
from align.train import arguments
arguments.prepare_process(0, 1)
from align.train import loop
loop.SAVE_SECONDS, loop.SAVE_SHARE = 0.0, math.inf
def kill(done, total, said=""):
    if done == 6: os.kill(os.getpid(), signal.SIGKILL)
t.train(Path(sys.argv[1]), Path(sys.argv[2]), progress=kill, epochs=4)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle(tiny: Path, tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tiny), str(tmp_path / "killed")], env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert child.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed/work").glob("checkpoint-*")] == ["checkpoint-4"]
    started: list[int] = []
    train(tiny, tmp_path / "killed", progress=lambda done, total, said="": started.append(done), epochs=4)
    train(tiny, tmp_path / "whole", epochs=4)
    assert started[0] == 5
    assert folder_files(tmp_path / "killed/out") == folder_files(tmp_path / "whole/out")


def test_micro_batches_give_the_same_model(tiny: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    start = load_file(tiny / "model.safetensors")
    for name, micro in (("whole", None), ("micro", 1)):
        options = {"optim": "sgd", "max_grad_norm": 0.0}  # Adam would blow rounding up to a whole step
        train(tiny, tmp_path / name, micro_batch_size=micro, trainer=options, learning_rate=0.5)
    whole, micro = (load_file(tmp_path / name / "out/model.safetensors") for name in ("whole", "micro"))
    for key, weights in whole.items():
        assert torch.allclose(micro[key], weights, atol=1e-5)
    assert max(float((whole[key] - start[key]).abs().max()) for key in whole) > 1e-2


def test_bfloat16_trains_and_is_published_as_such(tiny: Path, tmp_path: Path) -> None:
    metrics = train(tiny, tmp_path, dtype="bfloat16")
    assert metrics["train_loss_last"] < metrics["train_loss_first"]
    assert checkpoint.stored_dtypes(tmp_path / "out") == {"bfloat16"}
    assert metrics["reload_logp_difference"] < 1e-4, "the folder has exactly the weights that were drawn"
    assert metrics["published_weights"] == pytest.approx(1, abs=0.1)
    assert metrics["published_logps"] == pytest.approx(1, abs=0.1)


def test_a_loss_that_is_no_number_ends_the_training(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the loss is nan at step \d+ of 10; lower the learning rate"):
        train(tiny, tmp_path, learning_rate=1e30, trainer={"max_grad_norm": 0.0})
    assert not (tmp_path / "out/model.safetensors").exists()


def test_nothing_goes_over_the_network(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for name in ("CI", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: asked.append(args) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    train(tiny, tmp_path, lora=Lora(r=2))
    assert asked == []


def test_packed_rows_have_the_loss_and_gradient_of_rows_apart(tiny: Path, tmp_path: Path) -> None:
    import torch

    # as many packs as there are go into one step, so both trainings take the same single step
    apart = train(tiny, tmp_path / "apart", epochs=1, batch_size=20, learning_rate=1e-2, trainer={"optim": "sgd"})
    packed = train(
        tiny, tmp_path / "packed", epochs=1, batch_size=20, packing=True, max_tokens=128, learning_rate=1e-2,
        trainer={"optim": "sgd"},
    )  # fmt: skip
    assert packed["packs"] < 20 == packed["rows"] == apart["rows"]
    assert packed["tokens"] == apart["tokens"]
    assert packed["train_loss_first"] == pytest.approx(apart["train_loss_first"], abs=1e-5)
    one, other = (checkpoint.load_model(tmp_path / name / "out", "float32") for name in ("apart", "packed"))
    start = checkpoint.load_model(tiny, "float32")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert max(float((a - c).abs().max()) for a, c in zip(one.parameters(), start.parameters(), strict=True)) > 1e-4


def test_packed_training_resumes_to_the_same_bytes(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"packing": True, "max_tokens": 64, "batch_size": 2, "epochs": 2}
    metrics = train(tiny, tmp_path / "whole", **options)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", 1.0)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "cut", progress=stop_at(metrics["steps"] - 2), **options)
    train(tiny, tmp_path / "cut", **options)
    one, other = (tmp_path / name / "out" / "model.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()


def test_a_config_without_weights_starts_from_random_ones_by_seed(tiny: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ):
        if (tiny / name).is_file():
            (bare / name).write_bytes((tiny / name).read_bytes())
    given: dict[str, Any] = {"revision": None, "chat_template": None, "dtype": "float32"}
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        checkpoint.import_model(str(bare), tmp_path / name, seed=seed, **given)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "again", "b")}
    assert weights["a"] == weights["again"] != weights["b"]
    assert train(tmp_path / "a", tmp_path / "trained", ROWS[:4], epochs=1)["reload_logp_difference"] == 0
    with pytest.raises(ConfigError):  # nobody else starts from random weights
        checkpoint.import_model(str(bare), tmp_path / "c", **given)
    (bare / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
    with pytest.raises(ConfigError):  # a download that was cut short is not a model from scratch
        checkpoint.import_model(str(bare), tmp_path / "d", seed=1, **given)


@pytest.mark.slow
def test_from_a_config_alone_on_a_mixture_in_packs_by_the_command_line(tiny: Path, tmp_path: Path) -> None:
    from tests.loop import align, write_jsonl

    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny.iterdir():
        if file.suffix in (".json", ".jinja"):
            (bare / file.name).write_bytes(file.read_bytes())
    talk = [
        {"role": role, "content": text}
        for role, text in (("user", "Hi"), ("assistant", "No."), ("user", "Why?"), ("assistant", "We are sorry."))
    ]
    write_jsonl(tmp_path / "demos.jsonl", [{"messages": talk} for _ in range(12)])
    write_jsonl(tmp_path / "edits.jsonl", [{"prompt": "Hi", "completion": f"Thank you, {n}!"} for n in range(3)])
    done = align(
        "sft", "--model", "bare", "--demonstrations", "demos.jsonl", "--out", "out", "--threads", "1", "--json", "packing=true",
        "max_tokens=128", "mix=[{path: edits.jsonl, share: 0.25}]", "batch_size=2", "learning_rate=1e-2", cwd=tmp_path,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["rows"] == 16
    assert 1 < result["packs"] < 16
    assert result["train_loss_last"] < result["train_loss_first"]
    assert (tmp_path / "out" / "model.safetensors").is_file()
