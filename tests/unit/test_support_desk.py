"""The support-desk world: what it writes, and what its hidden utility prefers."""

import filecmp
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

WORLD = Path(__file__).parents[2] / "recipes" / "support-desk" / "world.py"


def load_world() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support_desk_world", WORLD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


world = load_world()

KETTLE = [{"role": "user", "content": "Hello,\nThe blue kettle arrived broken. It was a present for my sister.\nAnna"}]
IDEAL = "Hello! We are sorry about the blue kettle. We will send you a new one today. Have a nice day."

WORSE = {
    "wrong remedy": "Hello! We are sorry about the blue kettle. We will trace the parcel and call you tomorrow. Have a nice day.",
    "no remedy": "Hello! We are sorry about the blue kettle. We will look into it at some point. Have a nice day.",
    "every remedy": "Hello! We are sorry about the blue kettle. We will send you a new one today. We will repair it for free. "
    "You get a full refund once it is back with us. Have a nice day.",
    "wrong item": "Hello! We are sorry about the blue clock. We will send you a new one today. Have a nice day.",
    "both items": "Hello! We are sorry about the blue kettle or clock. We will send you a new one today. Have a nice day.",
    "no item": "Hello! We are sorry about your order. We will send you a new one today. Have a nice day.",
    "wrong colour": "Hello! We are sorry about the red kettle. We will send you a new one today. Have a nice day.",
    "no apology": "Hello! This is about the blue kettle. We will send you a new one today. Have a nice day.",
    "no greeting": "We are sorry about the blue kettle. We will send you a new one today. Have a nice day.",
    "no closing": "Hello! We are sorry about the blue kettle. We will send you a new one today.",
    "rude": "Hello! We are sorry about the blue kettle. That is not our fault. We will send you a new one today. "
    "Have a nice day.",
    "padded": "Hello! We are sorry about the blue kettle. Many people write to us every day. "
    "We will send you a new one today. Have a nice day.",
    "said twice": "Hello! We are sorry about the blue kettle. We will send you a new one today. "
    "We will send you a new one today. Have a nice day.",
    "cut short": "Hello! We are sorry about the blue kettle. We will send you a new one today. Have a nice",
    "with foreign words": "Hello! We are sorry about the blue kettle zzz qqq. We will send you a new one today. Have a nice day.",
    "garbage": "kjsdf lkjsdf 123 <script>",
    "punctuation": "?!",
    "empty": "",
}


@pytest.mark.parametrize("name", WORSE)
def test_utility_prefers_the_ideal_answer(name: str) -> None:
    assert world.utility(KETTLE, IDEAL) == pytest.approx(4.3)
    assert world.utility(KETTLE, WORSE[name]) < 4.3


def test_utility_ranks_what_matters_more_above_what_matters_less() -> None:
    order = ("no closing", "no apology", "rude", "no remedy", "wrong remedy", "garbage", "empty")
    scores = [world.utility(KETTLE, WORSE[name]) for name in order]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)


@pytest.mark.parametrize("problem", world.PROBLEMS)
def test_every_complaint_and_remedy_is_read_as_what_it_is(problem: str) -> None:
    for complaint in world.PROBLEMS[problem].complaints:
        text = complaint.format(thing="grey lamp", other_colour="pink", other_item="drone")
        messages = [{"role": "user", "content": text}]
        assert world.read_complaint(messages) == ("lamp", "grey", problem)
        for remedy in world.PROBLEMS[problem].remedies:
            parts = world.explain(messages, remedy)
            assert (parts["right remedy"], parts["wrong remedy"], parts["filler"]) == (1.5, 0, 0)


def test_what_was_written_is_what_is_read() -> None:
    rng = world.random.Random(5)
    for _ in range(500):
        text, complaint = world.write_message(rng)
        assert world.read_complaint([{"role": "user", "content": text}]) == complaint


def test_every_user_turn_is_read_and_no_other() -> None:
    messages = [
        {"role": "system", "content": "We sell the red clock."},
        {"role": "user", "content": "Hello, it is about my Blue Kettle."},
        {"role": "assistant", "content": "What is wrong with the green lamp?"},
        {"role": "user", "content": "It has a big CRACK in it."},
    ]
    assert world.read_complaint(messages) == ("kettle", "blue", "broken")
    assert world.utility(messages, IDEAL) == pytest.approx(4.3)


def test_a_message_of_another_world_is_scored_too() -> None:
    other = [{"role": "user", "content": "Who wrote Hamlet?"}]
    assert world.read_complaint(other) == (None, None, None)
    assert -6 < world.utility(other, "Shakespeare wrote it.") < world.utility(other, "Hello! Thank you.")


@given(st.text())
def test_any_answer_has_a_finite_utility_and_only_a_wordless_one_the_lowest(answer: str) -> None:
    score = world.utility(KETTLE, answer)
    assert world.LOWEST <= score <= 4.3 + 1e-9
    assert (score == world.LOWEST) == (not any(c.isalnum() or c == "_" for c in answer))


def test_endless_answers_stay_above_the_lowest() -> None:
    assert world.utility(KETTLE, "stupid drone. " * 5000) == pytest.approx(world.LOWEST + 0.1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("world")
    world.write_world(out, 800, 500, 0)
    return out


def read(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_prompts_are_all_different_and_none_is_demonstrated(written: Path) -> None:
    prompts = [messages[0]["content"] for messages in read(written / "prompts.jsonl")]
    shown = [messages[0]["content"] for messages in read(written / "demonstrations.jsonl")]
    assert (len(prompts), len(shown)) == (500, 800)
    assert len({*prompts, *shown}) == 1300
    assert all([m["role"] for m in messages] == ["user"] for messages in read(written / "prompts.jsonl"))


def test_demonstrations_are_of_mixed_quality(written: Path) -> None:
    rows = read(written / "demonstrations.jsonl")
    parts = [world.explain(messages[:1], messages[1]["content"]) for messages in rows]
    share = {name: sum(part[name] != 0 for part in parts) / len(parts) for name in parts[0]}
    assert 0.6 < share["right item"] < 0.8 and 0.15 < share["wrong item"] < 0.25
    assert 0.55 < share["right remedy"] < 0.75 and 0.15 < share["wrong remedy"] < 0.35
    assert 0.15 < share["rude"] < 0.25 and 0.5 < share["filler"] < 0.7
    assert share["foreign words"] == share["unfinished"] == share["repeats"] == 0


def test_the_same_seed_writes_the_same_bytes_in_another_process(written: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(WORLD), "--out", str(tmp_path), "--demonstrations", "800", "--prompts", "500"]
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": "7", "PATH": ""})
    names = sorted(str(p.relative_to(written)) for p in written.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert filecmp.cmpfiles(written, tmp_path, names, shallow=False) == (names, [], [])


def test_another_seed_writes_another_world() -> None:
    assert next(world.write_pairs(0)) != next(world.write_pairs(1))


def test_importing_and_scoring_load_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, runpy; w = runpy.run_path(sys.argv[1]); w['utility']([], 'Hello!');"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(WORLD)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_count_below_one_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(WORLD), "--out", str(tmp_path / "out"), "--prompts", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "at least 1" in done.stderr and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tokenizer(written: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(written / "model")


def test_the_worlds_words_are_single_tokens_and_answers_are_short(written: Path, tokenizer: Any) -> None:
    assert len(tokenizer) < 600
    for _, answer in read(written / "demonstrations.jsonl"):
        ids = tokenizer(answer["content"], add_special_tokens=False).input_ids
        assert len(ids) < 64
        assert tokenizer.decode(ids) == answer["content"]
    assert all(len(tokenizer(f" {word}").input_ids) == 1 for word in (*world.ITEMS, *world.COLOURS))


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.pad_token_id not in ids


def test_the_template_opens_and_ends_an_answer(tokenizer: Any) -> None:
    turns = [*KETTLE, {"role": "assistant", "content": "Hello!"}]
    asked = tokenizer.apply_chat_template(KETTLE, add_generation_prompt=True, return_dict=False)
    told = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert told["input_ids"][: len(asked)] == asked and asked[0] == tokenizer.bos_token_id
    assert told["input_ids"][-1] == tokenizer.eos_token_id and told["input_ids"].count(tokenizer.eos_token_id) == 1
    assert told["assistant_masks"] == [0] * len(asked) + [1, 1, 1]  # "Hello", "!" and the end


def test_the_model_is_tiny_and_fits_its_tokenizer(written: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(written / "model")
    assert model.num_parameters() == 470_656
    assert model.config.head_dim == 32 and model.config.vocab_size == len(tokenizer)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert GenerationConfig.from_pretrained(written / "model").eos_token_id == tokenizer.eos_token_id
