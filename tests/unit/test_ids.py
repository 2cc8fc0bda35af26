"""Ids are blake2b of canonical JSON: the literal values here were computed with hashlib alone."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align import ids
from align.ids import canonical_json, content_id, file_id, seed_for, unit_for
from align.types import candidate_id, judgement_id, preference_id, prompt_id, task_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_canonical_json() -> None:
    assert canonical_json({"b": [True, None, "é"], "a": 1}) == '{"a":1,"b":[true,null,"\\u00e9"]}'
    assert content_id({"b": [True, None, "é"], "a": 1}) == "539f3bf091e127c1ded5d3565a905827"
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json([number])


def test_ids_of_records() -> None:
    prompt = prompt_id([{"role": "user", "content": "hi"}])
    assert prompt == "108b0da8e9544e88571b1b831099a12c"
    assert candidate_id(prompt, "yes", "c0") == "7d8ad4583c81ccc2173004a863ccb81a"
    assert task_id("pair", "p", ["y", "x"], "train", 0, 1) == "26360a441abeece7fc246af3a1070404"
    assert task_id("pair", "p", ["x", "y"], "train", 0, 1) == "26360a441abeece7fc246af3a1070404"
    assert judgement_id("t", "ann", 0) == "37f67da81c1aef1f577b6826735ab0e1"
    assert preference_id("p", "x", "y") == "5d1db2bc80a017b43f0f610a852fba7d"
    assert preference_id("p", "y", "x") != preference_id("p", "x", "y")


def test_prompt_id_sees_roles_and_turns() -> None:
    one = prompt_id([{"role": "user", "content": "ab"}])
    assert one != prompt_id([{"role": "assistant", "content": "ab"}])
    assert one != prompt_id([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])


def test_file_id(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    assert file_id(path) == "46fb7408d4f285228f4af516ea25851b"
    path.write_bytes(b"")
    assert file_id(path) == "cae66941d9efbd404e4d88758ea67670"
    path.write_bytes(b"x" * 3_000_000)
    assert file_id(path) == hashlib.blake2b(b"x" * 3_000_000, digest_size=16).hexdigest()


def test_seeds_are_fixed() -> None:
    assert seed_for("split", "x") == 8630387676754096960
    assert unit_for("split", "x") == pytest.approx(0.9357085068528918, abs=1e-15)
    assert seed_for("a", "b") != seed_for("ab") != seed_for("b", "a")


def test_unit_is_below_one_even_for_the_largest_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quotient of 63 bits rounds up to 1.0 there."""
    monkeypatch.setattr(ids, "content_id", lambda value: "f" * 32)
    assert 0.999 < unit_for("anything") < 1
    monkeypatch.setattr(ids, "content_id", lambda value: "0" * 32)
    assert unit_for("anything") == 0


def test_units_are_uniform() -> None:
    units = sorted(unit_for("u", n) for n in range(2000))
    assert max(abs(u - n / 2000) for n, u in enumerate(units)) < 0.036  # Kolmogorov-Smirnov at 1%


@given(json_values)
def test_the_id_survives_a_round_trip_through_json(value: object) -> None:
    assert content_id(json.loads(json.dumps(value))) == content_id(value)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert content_id(dict(reversed(value.items()))) == content_id(value)
