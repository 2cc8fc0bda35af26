"""How thinking counts: kept, hidden from annotators, left out of the loss."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.config.recipe import Annotate, Recipe
from align.errors import ConfigError
from align.labelling.tasks import ask
from align.text import load_tokenizer, thinking_tokens
from align.train import examples as ex
from align.train.online import require_maskable
from align.train.reference import pair_id
from align.types import BinaryLabel, Candidate, Preference, Prompt, Task, candidate_id, prompt_id
from annotation.form import Form, form_of
from annotation.page import payload, seen_otherwise
from annotation.tasks import blind_tasks
from tests.chat_templates import FIXTURES, THINK, saved_tokenizer

ASK = [{"role": "user", "content": "my order"}]
TALK = [*ASK, {"role": "assistant", "content": THINK + "It is late."}, {"role": "user", "content": "And now?"}]
WIDE = ex.Limit(1000, "too long")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(saved_tokenizer(FIXTURES["qwen3"], tmp_path_factory.mktemp("t")))


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


def pair(**changes: Any) -> Preference:
    base = Preference("p", "q", ASK, "a", "b", THINK + "Sorry.", "No.", 1.0, 1.0, 0.0, 1, [])
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("name", "sampled", "hidden"),
    [
        ("qwen3", "<think>\nhm\n</think>\n\nSorry.<|im_end|>", "<think>\nhm\n</think>"),
        ("qwen3", "Sorry.<|im_end|>", ""),
        ("qwen3", "<think>\nhm", "<think>\nhm"),
        ("prompt ends in a block", "hm\n</think>\n\nSorry.<|im_end|>", "hm\n</think>"),
        ("prompt ends in a block", "hm", "hm"),
        ("channels", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
         "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("channels", "<|channel|>final<|message|>Yes.<|return|>", ""),
        ("chatml", "hm <think> so.<|im_end|>", ""),
    ],
)  # fmt: skip
def test_the_tokens_of_thoughts_end_where_the_template_closes_them(
    name: str, sampled: str, hidden: str, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(saved_tokenizer(FIXTURES[name], tmp_path))
    assert thinking_tokens(tokenizer, ids(tokenizer, sampled)) == len(ids(tokenizer, hidden))


def test_demonstrations_and_binary_labels_see_thoughts_and_do_not_learn_them(tokenizer: Any) -> None:
    end = [tokenizer.eos_token_id]
    (row,), _ = ex.encode_demonstrations(tokenizer, [(ASK, THINK + "Sorry.")], end, WIDE, mask_thinking=True)
    (kept,), _ = ex.encode_demonstrations(tokenizer, [(ASK, THINK + "Sorry.")], end, WIDE)
    thoughts = len(ids(tokenizer, "<think>\nhm\n</think>"))
    assert row.prompt_ids + row.answer_ids == kept.prompt_ids + kept.answer_ids
    assert row.labels == [-100] * (len(kept.prompt_ids) + thoughts) + ids(tokenizer, "\n\nSorry.<|im_end|>")
    label = BinaryLabel("t", "q", ASK, "a", THINK + "Sorry.", 1.0, 1.0, 1, [])
    (example,), _ = ex.encode_binary(tokenizer, [label], end, WIDE, mask_thinking=True)
    assert (example.prompt_ids, example.answer_ids) == (row.prompt_ids, row.answer_ids)


def test_the_thoughts_of_earlier_turns_are_not_learned_either(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved_tokenizer(FIXTURES["special think tokens"], tmp_path))
    rows, _ = ex.encode_demonstrations(
        tokenizer, [(TALK, "Soon.")], [tokenizer.eos_token_id], WIDE, turns="all", mask_thinking=True
    )
    learned = [[i for i in row.labels if i != -100] for row in rows]
    whole = [i for part in learned for i in part]
    assert "hm" not in tokenizer.decode(whole)
    assert "It is late." in tokenizer.decode(whole)
    assert "Soon." in tokenizer.decode(whole)


def test_a_pair_says_how_many_of_its_tokens_are_thoughts(tokenizer: Any) -> None:
    end = [tokenizer.eos_token_id]
    (row,), _ = ex.encode_preferences(tokenizer, [pair()], end, WIDE, None, True)
    (kept,), _ = ex.encode_preferences(tokenizer, [pair()], end, WIDE)
    full, empty = (len(ids(tokenizer, f"<think>\n{thoughts}\n</think>")) for thoughts in ("hm", ""))
    assert row.hidden == (full, empty) == (6, 4)  # this template writes an empty block where there are no thoughts
    assert replace(row, hidden=(0, 0)) == kept
    assert pair_id(row) != pair_id(kept)
    assert ex.as_input(kept) == (kept.prompt_ids, kept.chosen_ids, kept.rejected_ids, 1.0, 1.0)
    (only,), _ = ex.encode_preferences(tokenizer, [pair(rejected="<think>\nhm\n</think>\n\n")], end, WIDE, None, True)
    assert only.hidden[1] < len(only.rejected_ids), "the end is learned"


@pytest.mark.parametrize("shared", [True, False])
def test_dpo_counts_the_log_probability_of_what_is_said(shared: bool) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from align.train import dpo_trainer  # noqa: F401 - TRL's fused head
    from align.train.collate import PairCollator, answer_logps
    from align.train.prefix import use_shared_attention

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).eval()
    row = {"prompt_ids": [1, 5, 6], "chosen_ids": [10, 11, 12, 2], "rejected_ids": [20, 21, 2]}
    rows = [{**row, "chosen_hidden": 2, "rejected_hidden": 0}, {**row, "chosen_hidden": 0, "rejected_hidden": 1}]

    def logps(answer: list[int], hidden: int) -> float:
        whole = torch.tensor([row["prompt_ids"] + answer])
        found = model(input_ids=whole).logits[0, 2:-1].log_softmax(-1).gather(1, whole[0, 3:, None])[:, 0]
        return float(found[hidden:].sum().detach())

    expected = ([logps(row["chosen_ids"], n) for n in (2, 0)], [logps(row["rejected_ids"], n) for n in (0, 1)])
    batch = PairCollator(0, shared).batch(rows)
    assert [batch[name].tolist() for name in ("chosen_tokens", "rejected_tokens")] == [[2, 4], [3, 2]]
    if shared:
        use_shared_attention(model, torch.device("cpu"))
    else:
        assert batch["completion_mask"].tolist() == [
            [0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0],
        ]  # fmt: skip
        return  # the fused head belongs to TRL's trainer
    with torch.no_grad():
        found = answer_logps(model, batch)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tolist() == pytest.approx(theirs, abs=1e-4)


def test_a_method_that_weighs_whole_answers_refuses() -> None:
    require_maskable("grpo")
    with pytest.raises(ConfigError, match="rloo weighs an answer as a whole"):
        require_maskable("rloo")


# What annotators see


def candidates(prompt: Prompt, *texts: str) -> list[Candidate]:
    return [
        Candidate(candidate_id(prompt.id, text, "c"), prompt.id, text, "c", n, 5, "stop")
        for n, text in enumerate(texts)
    ]


def asked(hide: bool, *texts: str) -> list[Task]:
    prompt = Prompt(prompt_id(TALK), TALK, "train", "here")
    return ask([prompt], candidates(prompt, *texts), Annotate(), round=1, seed=0, hide_thinking=hide).tasks


def shown(task: Task, form: Form) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(payload(task, form)["payload"]))
    return found


def test_hidden_thoughts_reach_no_page_and_are_not_taken_for_an_edit() -> None:
    (task,) = asked(True, THINK + "Yes.", "No.")
    form, open_form = form_of(Annotate(), True), form_of(Annotate())
    page = shown(task, form)
    assert sorted(page["answers"]) == ["No.", "Yes."]
    assert [m["content"] for m in page["messages"]] == ["my order", "It is late.", "And now?"]
    assert "hm" not in payload(task, form)["words"]
    assert seen_otherwise({"comparison": payload(task, form)}, task, form) is None
    assert sorted(shown(task, open_form)["answers"]) == ["<think>\nhm\n</think>\n\nYes.", "No."]
    assert THINK + "Yes." in task.texts, "training has them all the same"


def test_answers_that_differ_in_hidden_thoughts_alone_are_one() -> None:
    texts = (THINK + "Yes.", "<think>\nno\n</think>\n\nYes.", "No.")
    assert [len(asked(hide, *texts)) for hide in (False, True)] == [3, 1]
    prompt = Prompt("p", ASK, "test", "here")
    sides = [[replace(c, prompt_id="p")] for c in candidates(prompt, *texts[:2])]
    for hide, same in ((False, []), (True, ["p"])):
        assert blind_tasks([prompt], *sides, round=1, count=9, overlap=1, seed=0, hide_thinking=hide)[1] == same


def test_a_folder_of_tasks_remembers_what_it_hides_and_exports_what_was_shown(tmp_path: Path) -> None:
    from align.labelling.folder import make_session
    from align.labelling.session import session_of_folder
    from align.provenance.export import _judgement
    from align.types import Judgement

    rows = [{"messages": ASK, "text": text} for text in (THINK + "Yes.", "No.")]
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, hide in (("open", False), ("hidden", True)):
        make_session(tmp_path / name, tmp_path / "candidates.jsonl", Annotate(), seed=0, hide_thinking=hide)
        make_session(tmp_path / name, tmp_path / "candidates.jsonl", Annotate(), seed=0, hide_thinking=hide)
        with pytest.raises(ConfigError, match="was not made from these candidates with these options"):
            make_session(tmp_path / name, tmp_path / "candidates.jsonl", Annotate(), seed=0, hide_thinking=not hide)
        session = session_of_folder(tmp_path / name)
        assert session.form.hide_thinking is hide
        said = Judgement("j", session.tasks[0].id, "pair", "ann", 0, "a")
        exported = _judgement(said, session.tasks[0], None, session.hide_thinking)["answers"]
        assert ("Yes." in exported) is hide


def test_simulated_annotators_see_what_people_see() -> None:
    from align.config.recipe import Persona
    from annotation.simulate import plan

    (task,) = asked(True, THINK + "Yes.", "No.")
    seen: list[str] = []

    def utility(_: Any, texts: list[str]) -> list[float]:
        seen.extend(texts)
        return [float(len(text)) for text in texts]

    plan([task], [Persona(name="ann")], utility, seed=0, form=form_of(Annotate(), True))
    assert sorted(seen) == ["No.", "Yes."]


def test_the_key_is_in_what_it_changes_and_nowhere_else(tmp_path: Path) -> None:
    from align.pipeline.fingerprint import Fingerprints
    from align.pipeline.stage import Stage
    from align.stages.plan import make_plan
    from tests.tiny import make_tiny_model

    make_tiny_model(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    base = {"name": "r", "prompts": {"path": str(tmp_path / "prompts.jsonl")}, "annotate": {}}

    def settings(*hidden: str) -> dict[str, str]:
        model = {"path": str(tmp_path / "model"), "hide_thinking": list(hidden)}
        recipe = Recipe.model_validate({**base, "model": model})
        steps = make_plan(recipe, Fingerprints(tmp_path / "prints"))
        return {str(s.ref): json.dumps(dict(s.settings), default=str) for s in steps if isinstance(s, Stage)}

    plain = settings()
    changed = {
        name: {ref for ref, text in settings(name).items() if text != plain[ref]} for name in ("annotators", "loss")
    }
    assert changed == {"annotators": {"1/tasks"}, "loss": {"1/policy"}}
    assert "thinking" not in "".join(plain.values())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"path": "a/b", "hide_thinking": ["annotators"]}, "preferences": {"from": "p"}, "annotate": None}, "this recipe asks nobody"),
        ({"model": {"path": "a/b", "hide_thinking": ["loss", "loss"]}}, "names one twice"),
        ({"model": {"path": "a/b", "hide_thinking": ["loss"]}, "annotate": None, "rloo": {}, "reward": {"functions": [{"path": "f"}]}}, "`rloo` weighs an answer as a whole"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_act_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("{}")
    (tmp_path / "f.py").write_text("def f(m, a): return 0.0")
    text = (
        json.dumps(changes)
        .replace('"p"', json.dumps(str(tmp_path / "p")))
        .replace('"f"', json.dumps(f"{tmp_path}/f.py:f"))
    )
    base = {"name": "r", "prompts": {"path": str(tmp_path / "p")}, "annotate": {}}
    with pytest.raises(ValueError, match=says):
        Recipe.model_validate({**base, **json.loads(text)})
