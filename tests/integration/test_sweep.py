"""A sweep for real: Optuna, TRL and a tiny model; kill it where it hurts and nothing is lost but the running trial."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from align.config.base import Sampling
from align.config.load import load_recipe
from align.config.section import load_section
from align.config.space import split_settings
from align.config.training import Dpo
from align.errors import ConfigError, DataError, StageError
from align.sweep.sweep import Subject, sweep, tuning_and_final, with_values
from align.sweep.swept import best_recipe, rows_left, subject_of_recipe
from align.sweep.trials import Budget, Search
from align.types import Prompt, prompt_id
from tests.loop import align, make_loop, write_jsonl

RANGES = ["learning_rate=1e-5..1e-1:log", "batch_size=4,8"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, prompts, pairs about others, and a scoring function."""
    folder = tmp_path_factory.mktemp("sweep")
    make_loop(folder, folder / "no-server")
    pairs = [{"prompt": f"Where is parcel {n}?", "chosen": "thank you", "rejected": "late late"} for n in range(8)]
    write_jsonl(folder / "pairs.jsonl", pairs)
    return folder


def a_prompt(n: int) -> Prompt:
    messages: Any = [{"role": "user", "content": f"Case {n}?"}]
    return Prompt(prompt_id(messages), messages, "train", f"x:{n}")


def subject(model: Path, train: Any) -> Subject:
    prompts = [a_prompt(n) for n in range(40)]
    return Subject(
        Dpo(learning_rate=0.1), train, model, prompts[:20], prompts[20:],
        lambda messages, answers: [1.0 for _ in answers], Sampling(max_tokens=4), data_id="rows",
    )  # fmt: skip


def scripted(monkeypatch: pytest.MonkeyPatch, *, dies_at: int | None = None, log: list[Any] | None = None) -> Any:
    """Replaces training and measuring by a curve whose height is known: best at a learning rate of 1e-3.

    `dies_at` is the trial that is interrupted as a kill would: nothing is written after it."""
    import math

    from align.sweep import sweep as module

    monkeypatch.setattr(module, "_measure", lambda *_: lambda model: (model, model - 0.1, model + 0.1))
    compared = {"better": None, "note": "not compared here"}
    monkeypatch.setattr(module, "_compare", lambda *_: (compared, None))
    calls = [] if log is None else log

    def trained(subject: Any, config: Any, seed: int, place: Path, look: Any) -> None:
        calls.append((config.learning_rate, config.batch_size))
        height = -abs(math.log10(config.learning_rate) + 3)
        for step in (1, 2, 3, 4):
            if dies_at is not None and len(calls) == dies_at:
                raise KeyboardInterrupt
            if config.learning_rate > 0.05 and config is not subject.start:
                raise StageError("the loss is nan at step 1 of 4")
            look(height * step / 4, step, 4)

    monkeypatch.setattr(module, "_trained", trained)
    return calls


def run(model: Path, at: Path, trials: int = 9, **changes: Any) -> dict[str, Any]:
    at.mkdir(exist_ok=True)
    search = Search(split_settings(RANGES)[1], **{"seed": 3, **changes})
    return sweep(subject(model, None), search, Budget(trials), work=at)


def test_it_finds_the_best_and_prunes_what_falls_behind(world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    calls = scripted(monkeypatch)
    result = run(world / "model", tmp_path / "a", 12)
    assert len(calls) == 13  # the start and every trial once
    assert result["start"] == {"learning_rate": 0.1, "batch_size": 16}
    assert result["start_value"] == pytest.approx(-2.0)
    assert 3e-4 < result["best"]["learning_rate"] < 3e-3
    assert result["best_value"] == max(t["value"] for t in result["trials"] if t["state"] == "complete")
    states = {t["state"] for t in result["trials"]}
    assert states >= {"complete", "pruned"}
    assert all(len(t["looks"]) < 3 for t in result["trials"] if t["state"] == "pruned")
    diverged = [t for t in result["trials"] if t["values"]["learning_rate"] > 0.05]
    assert all(t["state"] == "diverged" and "nan" in t["reason"] for t in diverged)


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("random", marks=pytest.mark.full)])
def test_a_kill_loses_the_running_trial_alone(world: Path, tmp_path: Path, monkeypatch: Any, sampler: str) -> None:
    whole = run_scripted(world, tmp_path / "whole", monkeypatch, sampler=sampler)
    log: list[Any] = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        scripted(patch, dies_at=7, log=log)
        run(world / "model", tmp_path / "cut", sampler=sampler)
    journal = next((tmp_path / "cut").glob("sweep-*/optuna.log"))
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "worker_id"')  # torn by the kill
    (journal.parent / "optuna.log.lock").write_text("")
    again = run_scripted(world, tmp_path / "cut", monkeypatch, sampler=sampler, log=log)
    assert len(log) == 1 + 9 + 1
    assert log[6] == log[7]  # the running one, again, with the same settings
    for result in (whole, again):
        for trial in result["trials"]:
            trial.pop("seconds")
    assert again == whole


def run_scripted(world: Path, at: Path, monkeypatch: Any, log: Any = None, **changes: Any) -> dict[str, Any]:
    with monkeypatch.context() as patch:
        scripted(patch, log=log)
        return run(world / "model", at, **changes)


def test_a_longer_budget_goes_on_and_other_rows_begin_anew(world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    log: list[Any] = []
    scripted(monkeypatch, log=log)
    run(world / "model", tmp_path / "a", 4)
    result = run(world / "model", tmp_path / "a", 6)
    assert (len(log), len(result["trials"])) == (7, 6)
    run(world / "model", tmp_path / "a", 2, seed=4)
    assert len(log) == 7 + 3
    none = sweep(
        subject(world / "model", None), Search(split_settings(RANGES)[1], seed=3), Budget(20, 0), work=tmp_path / "a"
    )
    assert len(none["trials"]) == 6  # the minutes were over


def test_what_cannot_be_swept_is_said(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learning_rat: unknown key; did you mean learning_rate"):
        sweep(
            subject(world / "model", None), Search(split_settings(["learning_rat=1..2"])[1]), Budget(1), work=tmp_path
        )
    few = Subject(Dpo(), None, world / "model", [a_prompt(1)], [a_prompt(2), a_prompt(3)], None, Sampling())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="two prompts or more of each kind, found 1 for the trials and 2"):
        sweep(few, Search(split_settings(RANGES)[1]), Budget(1), work=tmp_path)
    with pytest.raises(ConfigError, match="micro_batch_size"):
        with_values(Dpo(), {"batch_size": 8, "micro_batch_size": 3})


def test_what_a_recipe_cannot_sweep_is_said(world: Path) -> None:
    def of(section: str, *changes: str) -> str:
        loaded = load_recipe(world / "recipe.yaml", changes)
        with pytest.raises(ConfigError) as error:
            subject_of_recipe(loaded, world / "no-run", section, model=world / "model", share=0.2)
        return str(error.value)

    assert "the recipe trains by sft and dpo, found kto" in of("kto")
    assert "run the recipe until a round is labelled: `align run`" in of("dpo")
    assert "people cannot score every trial" in of("dpo", "evaluate.judge={type: people}", "annotate.by=people")
    assert "add nproc=1" in of("dpo", "nproc=2")


def test_prompts_of_trials_and_of_the_comparison_are_never_trained_on() -> None:
    prompts = [a_prompt(n) for n in range(400)]
    tuning, final = tuning_and_final(prompts, 0.2, 0)
    assert 50 < len(tuning) < 110 and 50 < len(final) < 110
    assert not {p.id for p in tuning} & {p.id for p in final}
    rows = [(p.messages, "yes") for p in prompts]
    left = {prompt_id(messages) for messages, _ in rows_left(rows, [*tuning, *final])}
    assert left == {p.id for p in prompts} - {p.id for p in [*tuning, *final]}


def test_the_best_goes_into_the_recipe_and_its_paths_still_lead_there(world: Path, tmp_path: Path) -> None:
    (world / "mine.yaml").write_text(
        "name: mine # ours\nmodel: {path: ./model}\nprompts: {path: prompts.jsonl}\npreferences: {from: pairs.jsonl}\n"
        "dpo: # the method\n  beta: 0.1 # pull\n  learning_rate: 1e-3\nevaluate: {judge: {path: 'score.py:score'}}\n"
    )
    loaded = load_recipe(world / "mine.yaml", ["dpo.beta=0.3"])
    out = tmp_path / "out"
    out.mkdir()
    text = best_recipe(loaded, "dpo", {"learning_rate": 2e-4, "trainer.warmup_steps": 5}, out, ["dpo.beta=0.3"])
    assert "name: mine # ours" in text and "beta: 0.3 # pull" in text
    (out / "best.yaml").write_text(text)
    best = load_recipe(out / "best.yaml").recipe
    dpo = best.dpo
    assert dpo is not None and (dpo.beta, dpo.learning_rate, dpo.trainer) == (0.3, 2e-4, {"warmup_steps": 5})
    assert best.model.path == str(world / "model")
    assert best.evaluate == loaded.recipe.evaluate


@pytest.mark.slow
def test_from_the_command_line_killed_in_the_middle(world: Path) -> None:
    (world / "swept.yaml").write_text(
        "name: swept\nthreads: 1\nmodel: {path: ./model}\nprompts: {path: prompts.jsonl, test_share: 0.3}\n"
        "preferences: {from: pairs.jsonl}\n"
        "dpo: {learning_rate: 1e-1, batch_size: 4, epochs: 2} # too high\n"
        "evaluate: {judge: {path: 'score.py:score'}, max_tokens: 12}\n"
    )
    command = [
        "sweep", "swept.yaml", "dpo.learning_rate=1e-5..1e-2:log", "dpo.beta=0.05,0.1", "--trials", "6", "--out", "swept",
        "--share", "0.3", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "align", *command],
        cwd=world,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("trial 2 of 6"):
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert not (world / "swept").exists()
    done = align(*command, cwd=world)
    assert "start:" not in done.stderr and "trial 2 of 6" not in done.stderr and "trial 6 of 6" in done.stderr
    result = json.loads(done.stdout)
    assert 1 <= result["best_trial"] <= 6
    assert result["tuning_prompts"] >= 2 and result["comparison"]["win_rate"]["clusters"] == result["final_prompts"]
    kept = [json.loads(line)["number"] for line in (world / "swept" / "trials.jsonl").read_text().splitlines()]
    assert kept == [1, 2, 3, 4, 5, 6], "as on the screen"
    best = load_recipe(world / "swept" / "best.yaml").recipe
    assert best.dpo is not None and best.dpo.learning_rate == result["best"]["learning_rate"] < 1e-2
    alone = load_section(Dpo, [], file=world / "swept" / "best.yaml", keys=("dpo",))
    assert alone == best.dpo, "`align dpo --config` takes the same"
    figure = (world / "swept" / "sweep.svg").read_text()
    assert figure.count("<circle") == 3 * 6 and "learning_rate, logarithmic" in figure
    assert (world / "swept" / "policy" / "model.safetensors").is_file()
    assert sorted(p.name for p in (world / "swept").iterdir()) == [
        "best.yaml", "logs", "policy", "result.json", "sweep.svg", "trials.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.2}], ids=["full", "lora"])
def test_a_look_at_a_model_in_training_leaves_it_as_it_was(world: Path, tmp_path: Path, lora: Any) -> None:
    from align.config.training import Sft
    from align.sweep.measuring import Answering, measured
    from align.train.loop import evaluation_callback
    from align.train.sft import train_sft

    asked = [a_prompt(n) for n in range(6)]
    answering = Answering.to(
        asked, world / "model", Sampling(max_tokens=4), lambda m, texts: [float(len(t)) for t in texts],
        max_prompt_tokens=99, seed=1,
    )  # fmt: skip
    seen: list[tuple[float, float, float]] = []

    def look(model: Any, step: int, steps: int) -> None:
        assert model.training
        seen.append(measured(answering, model, None, tie_width=0, seed=0))
        assert model.training

    rows = [(p.messages, "thank you, thank you") for p in asked]
    config = Sft(demonstrations=Path("d"), learning_rate=1e-2, batch_size=2, epochs=2, lora=lora)
    given: dict[str, Any] = {"seed": 1, "dtype": "float32", "report_to": [], "threads": 1}
    train_sft(world / "model", rows, config, **given, out=tmp_path / "unseen", work=tmp_path / "work")
    with evaluation_callback(look):
        train_sft(world / "model", rows, config, **given, out=tmp_path / "seen", work=tmp_path / "work2")
    assert len(seen) == 6 and len(set(seen)) > 1
    one, other = (tmp_path / name / "model.safetensors" for name in ("unseen", "seen"))
    assert one.read_bytes() == other.read_bytes()
    # the last look saw what was published
    score = [s for (s,) in answering.scores_of(tmp_path / "seen", "float32")]
    assert seen[-1][0] == pytest.approx(sum(float(s or 0) for s in score) / 6)
