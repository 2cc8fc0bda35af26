"""What reads the same is the same: one normal form, and everything that it decides."""

import gzip
import hashlib
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.recipe import Prompts
from align.data.binary import load_binary
from align.data.contamination import drop_held_out_binary, drop_held_out_demonstrations, drop_held_out_preferences
from align.data.demonstrations import Demonstration, load_demonstrations
from align.data.preferences import load_preferences
from align.data.prompts import load_prompts, read_prompts
from align.ids import content_id
from align.normal import normal
from align.sweep.swept import rows_left
from align.types import Message, Prompt, messages_id, prompt_id
from annotation.controls import gold_tasks
from annotation.tasks import blind_tasks, make_tasks
from rollouts.draw import _repeats
from tests.labelling import make_candidate, make_prompt, pair_tasks
from tests.loop import write_jsonl

TWINS = {
    "line ends of Windows": ("one\ntwo", "one\r\ntwo"),
    "line ends of old Macs": ("one\ntwo", "one\rtwo"),
    "line separator": ("one\ntwo", "one\u2028two"),
    "composed and decomposed": ("caf\u00e9", "cafe\u0301"),
    "another code for a letter": ("\u00c5ngstr\u00f6m", "\u212bngstro\u0308m"),
    "Hangul syllables and letters": ("\ud558", "\u1112\u1161"),
    "byte order mark": ("hello", "\ufeffhello"),
    "zero-width space": ("hello", "hel\u200blo"),
    "zero-width space before a blank": ("a b", "a \u200bb"),
    "zero-width space between letter and accent": ("\u00e9", "e\u200b\u0301"),
    "word joiner": ("a-b", "a\u2060-\u2060b"),
    "soft hyphen": ("cooperate", "co\u00adoperate"),
    "joiners in Latin": ("Auflage", "Auf\u200clage\u200d"),
    "joiner between figures": ("12", "1\u200d2"),
    "joiner in Han": ("\u4f60\u597d", "\u4f60\u200d\u597d"),
    "mark of direction in English": ("hello", "\u200ehello\u200f"),
    "no-break space": ("10 km", "10\u00a0km"),
    "blanks around": ("hello", "\u200b hello\u00a0"),
}
APART = {
    "Persian: I want": (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645",
    ),
    "Devanagari: half form": ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u0937"),
    "Sinhala: ligature": ("\u0dc1\u0dca\u200d\u0dbb\u0dd3", "\u0dc1\u0dca\u0dbb\u0dd3"),
    "a family and three people": ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f468\U0001f469\U0001f467"),
    "a heart on fire": ("\u2764\ufe0f\u200d\U0001f525", "\u2764\ufe0f\U0001f525"),
    "square and two": ("x\u00b2", "x2"),
    "ligature": ("\ufb01", "fi"),
    "override": ("ab\u202ec", "abc"),
    "mark of direction in Hebrew": ("\u05e9\u05dc\u05d5\u05dd\u200f!", "\u05e9\u05dc\u05d5\u05dd!"),
    "blanks inside": ("if a:\n  b", "if a:\n b"),
    "capitals": ("A", "a"),
}


@pytest.mark.parametrize("twins", TWINS)
def test_what_reads_the_same_has_one_form(twins: str) -> None:
    one, other = TWINS[twins]
    assert normal(other) == normal(one) == one, "the plain one is in normal form"


@pytest.mark.parametrize("apart", APART)
def test_what_reads_otherwise_stays_apart(apart: str) -> None:
    one, other = APART[apart]
    assert (normal(one), normal(other)) == (one, other)


LETTERS = "ab \n\r\u00e9e\u0301\u200b\ufeff\u200c\u200d\u200e\u200f\u202e\u0627\u0646\u05d0\u0915\u094d\u2764\ufe0f\U0001f525\u00a0\u2028\u0323"


@given(st.text(alphabet=LETTERS, max_size=8) | st.text())
def test_twice_is_once(text: str) -> None:
    assert normal(normal(text)) == normal(text)
    assert unicodedata.is_normalized("NFC", normal(text))


def ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_ids_of_texts_in_normal_form_are_what_they_were() -> None:
    """Computed with hashlib alone, as every version before did."""
    for text in ("hi", "caf\u00e9\n\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469"):
        raw = json.dumps(["prompt", [["user", text]]], separators=(",", ":")).encode()
        assert prompt_id(ask(text)) == messages_id(ask(text)) == hashlib.blake2b(raw, digest_size=16).hexdigest()
    assert prompt_id(ask("hi\r\n")) == "108b0da8e9544e88571b1b831099a12c" != messages_id(ask("hi\r\n"))


def test_a_twin_is_a_duplicate_and_never_crosses(tmp_path: Path) -> None:
    """Beside each prompt a twin: none is on the other side of the split, and what was written first is kept as it is."""
    texts = [f"first\r\nline {n}, cafe\u0301" for n in range(60)]
    twins = [unicodedata.normalize("NFC", t).replace("\r\n", "\n") + "\u200b" for t in texts]
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": t} for t in [*texts, *twins]])
    prompts, dropped = load_prompts(Prompts(path=tmp_path / "prompts.jsonl", test_share=0.5))
    assert [p.messages[0]["content"] for p in prompts] == texts
    assert [row.reason for row in dropped] == [f"duplicate: the same prompt as prompts.jsonl:{n}" for n in range(1, 61)]
    write_jsonl(tmp_path / "twins.jsonl", [{"prompt": t} for t in twins])
    assert [p.split for p in read_prompts(tmp_path / "twins.jsonl", 0.5)[0]] == [p.split for p in prompts]


@pytest.fixture
def held_out() -> list[Prompt]:
    """As a run of an earlier version has it: its id is that of its exact characters."""
    messages = ask("cafe\u0301\r\nor tea?")
    return [Prompt(messages_id(messages), messages, "test", "prompts.jsonl:1")]


def test_nothing_is_trained_on_whose_twin_is_held_out(tmp_path: Path, held_out: list[Prompt]) -> None:
    twin = "caf\u00e9\nor\u00a0tea?"
    demonstration = Demonstration(ask(twin), "tea", "d.jsonl:1")
    assert [row.where for row in drop_held_out_demonstrations([demonstration], held_out)[1]] == ["d.jsonl:1"]
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": twin, "chosen": "tea", "rejected": "no"}])
    pairs, _ = load_preferences(tmp_path / "pairs.jsonl")
    assert (len(pairs), drop_held_out_preferences(pairs, held_out)[0]) == (1, [])
    write_jsonl(tmp_path / "binary.jsonl", [{"prompt": twin, "completion": "tea", "label": True}])
    binary, _ = load_binary(tmp_path / "binary.jsonl")
    assert (len(binary), drop_held_out_binary(binary, held_out)[0]) == (1, [])
    assert rows_left([*pairs, *binary, (ask(twin), "tea")], held_out) == []


def test_nobody_compares_what_reads_the_same() -> None:
    prompt = make_prompt("?")
    texts = ["a\nb", "a\r\nb", "cafe\u0301", "caf\u00e9 ", "caf\u200b\u00e9"]
    answers = [make_candidate(prompt, text, n) for n, text in enumerate(texts)]
    (task,), dropped = make_tasks([prompt], answers, round=1, count=9, overlap=1, seed=0)
    assert ({normal(text) for text in task.texts}, dropped) == ({"a\nb", "caf\u00e9"}, [])
    assert set(task.texts) <= set(texts), "what was written stays as it is"
    none, (reason,) = make_tasks([prompt], answers[:2], round=1, count=9, overlap=1, seed=0)
    assert (none, reason.reason) == ([], "all its answers are the same")
    test = make_prompt("!", split="test")
    old, new = (make_candidate(test, text) for text in texts[:2])
    assert blind_tasks([test], [new], [old], round=1, count=9, overlap=1, seed=0) == ([], [test.id])


def test_pairs_and_binary_labels_that_read_the_same_are_one(tmp_path: Path) -> None:
    rows = [
        {"prompt": "?", "chosen": "a\nb", "rejected": "no"},
        {"prompt": "?\u200b", "chosen": "a\r\nb", "rejected": "no\ufeff"},
        {"prompt": "?", "chosen": "a\r\nb", "rejected": "a\nb"},
        {"prompt": "?", "chosen": "\u200b", "rejected": "yes"},
        {"prompt": "cafe\u0301?", "chosen": "\n\nHuman: caf\u00e9?\n\nAssistant: yes", "rejected": "no"},
    ]
    write_jsonl(
        tmp_path / "pairs.jsonl", [*rows, *({"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(4))]
    )
    pairs, dropped = load_preferences(tmp_path / "pairs.jsonl")
    assert [(row.where, row.reason.split(":")[0]) for row in dropped] == [
        ("pairs.jsonl:3", "no difference"),
        ("pairs.jsonl:4", "empty"),
        ("pairs.jsonl:2", "duplicate"),
    ]
    assert pairs[0].chosen == "a\nb" and pairs[1].messages[0]["content"] == "cafe\u0301?"
    binary = [{"prompt": "?", "completion": text, "label": True} for text in ("a\nb", "a\r\nb")]
    write_jsonl(tmp_path / "binary.jsonl", binary)
    kept, left_out = load_binary(tmp_path / "binary.jsonl")
    assert ([t.text for t in kept], len(left_out)) == (["a\nb"], 1)
    asked = [{"prompt": "cafe\u0301", "completion": [*ask("caf\u00e9"), {"role": "assistant", "content": "yes"}]}]
    write_jsonl(tmp_path / "demonstrations.jsonl", asked)
    assert load_demonstrations(tmp_path / "demonstrations.jsonl")[0][0].answer == "yes"
    _, alike = gold_tasks(pairs[:1], pair_tasks(2), kind="pair", share=1.0, round=1, overlap=1, seed=0)
    assert alike == []


def test_an_answer_that_reads_like_another_is_drawn_again() -> None:
    rows = [{"prompt_id": "p", "text": text} for text in ("a\nb", "a\r\nb", "c")]
    assert _repeats(rows, set()) == [1]  # type: ignore[arg-type]


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")
def test_real_texts_keep_their_ids_but_for_a_few() -> None:
    """Of 38,936 real texts 69 have another normal form than themselves: no-break spaces, byte order marks, joiners."""
    changed = total = 0
    for path in sorted(DATA.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for text in (text for line in file for text in strings(json.loads(line))):
                total += 1
                changed += content_id(normal(text)) != content_id(text.strip())
    assert (total, changed) == (38_936, 69)


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]
