"""What a sweep may try, read from text; and recipes that get the best of it, with their comments."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.space import Choices, Range, contains, read_space, require_distinct, split_settings
from align.config.yaml_text import edited, parse
from align.errors import ConfigError


def test_ranges_choices_and_plain_settings_are_told_apart() -> None:
    fixed, space = split_settings(
        ["beta=0.2", "learning_rate=1e-5..1e-1:log", "batch_size=8,16,32", "epochs=1..4", "max_tokens=8..64:8",
         "trainer.lr_scheduler_type=linear,cosine", "lora.target_modules=[q_proj, v_proj]", "trainer.warmup_ratio=0..0.5"]
    )  # fmt: skip
    assert fixed == ["beta=0.2", "lora.target_modules=[q_proj, v_proj]"]
    assert space == [
        Range("learning_rate", 1e-5, 1e-1, log=True),
        Choices("batch_size", (8, 16, 32)),
        Range("epochs", 1, 4),
        Range("max_tokens", 8, 64, step=8),
        Choices("trainer.lr_scheduler_type", ("linear", "cosine")),
        Range("trainer.warmup_ratio", 0, 0.5),
    ]
    assert [d.whole for d in space if isinstance(d, Range)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x=3..1", "a range goes up, found 3 to 1"),
        ("x=0..1:log", "a logarithmic range starts above 0, found 0"),
        ("x=1..2:lag", "behind a range stands log or a step, found 'lag'"),
        ("x=1..", "'1..' is no range"),
        ("x=8,8", "choices are different plain values, found '8,8'"),
    ],
)
def test_half_of_a_range_is_an_error(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match="x=") as error:
        split_settings([text])
    assert says in str(error.value)


def test_ranges_stand_in_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "ranges.yaml"
    file.write_text("sweep:\n  learning_rate: 1e-5..1e-1:log # wide\n  batch_size: [8, 16]\n")
    assert read_space(file) == [Range("learning_rate", 1e-5, 1e-1, log=True), Choices("batch_size", (8, 16))]
    file.write_text("beta: 0.1\n")
    with pytest.raises(ConfigError, match=r"ranges\.yaml:1: beta has no range, found 0.1"):
        read_space(file)
    with pytest.raises(ConfigError, match="there is nothing to search"):
        require_distinct([])
    with pytest.raises(ConfigError, match="x has two ranges"):
        require_distinct([Range("x", 0, 1), Choices("x", (1, 2))])


def test_what_lies_inside() -> None:
    space = [Range("a", 1e-3, 1.0, log=True), Choices("b", (8, None))]
    assert contains(space, {"a": 1e-3, "b": None})
    assert not contains(space, {"a": 2.0, "b": 8})
    assert not contains(space, {"a": 0.5, "b": True})


RECIPE = """# my recipe
name: mine # a name
dpo: # the method
  beta: 0.1 # pull

  learning_rate: 2e-4
  # trainer options
  trainer: {max_steps: 20, warmup_steps: 2} # few

evaluate:
  prompts: 300
"""


def test_a_recipe_keeps_its_comments() -> None:
    changes = {("dpo", "learning_rate"): 3.5e-05, ("dpo", "trainer", "warmup_steps"): 7, ("dpo", "batch_size"): 8}
    text = edited(RECIPE, changes, "recipe")
    assert text == RECIPE.replace("2e-4", "3.5e-05").replace("warmup_steps: 2", "warmup_steps: 7").replace(
        "  beta: 0.1", "  batch_size: 8\n  beta: 0.1"
    )


def test_sections_that_are_not_there_are_made() -> None:
    text = edited(RECIPE, {("sft", "trainer", "max_steps"): 3}, "recipe")
    assert parse(text, "recipe")[0]["sft"] == {"trainer": {"max_steps": 3}}
    assert "# the method" in text
    assert parse(edited("dpo:\nname: x\n", {("dpo", "beta"): 1.5}, "recipe"), "r")[0] == {
        "dpo": {"beta": 1.5},
        "name": "x",
    }
    assert parse(edited("", {("beta",): 1.5}, "recipe"), "r")[0] == {"beta": 1.5}


@given(
    st.dictionaries(
        st.sampled_from(["beta", "learning_rate", "new", "trainer"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(-1e9, 1e9)
        | st.text(st.characters(max_codepoint=126), max_size=9),
    )
)
def test_the_values_are_right_whatever_is_written(changes: dict[str, object]) -> None:
    text = edited(RECIPE, {("dpo", key): value for key, value in changes.items()}, "recipe")
    wanted = parse(RECIPE, "recipe")[0]
    wanted["dpo"] |= changes
    assert parse(text, "recipe")[0] == wanted


def test_the_figure_shows_every_trial_and_escapes_what_it_names() -> None:
    from align.report.sweep import sweep_svg

    def trial(number: int, rate: float, value: float | None, state: str = "complete") -> dict[str, object]:
        bounds = {"low": None, "high": None} if value is None else {"low": value - 1, "high": value + 1}
        return {"number": number, "values": {"rate<": rate}, "value": value, "state": state, **bounds}

    trials = [trial(1, 1e-3, 1.0), trial(2, 1e-5, None, "diverged"), trial(3, 0.1, 3.0), trial(4, 0.2, 0.5, "pruned")]
    result = {
        "metric": "mean_score", "tuning_prompts": 9, "start": {"rate<": 1.0}, "start_value": None, "best_trial": 3,
        "trials": [*trials, trial(5, 0.3, 1.5), trial(6, 0.4, 2.5)],
    }  # fmt: skip
    figure = sweep_svg(result)
    assert figure.count("<circle") == 2 * 5
    assert figure.count('class="dot best"') == 2 and figure.count('class="dot off"') == 2
    assert "rate&lt;, logarithmic" in figure and "rate<" not in figure
    assert figure.count('class="bar"') == 2 * 4  # a pruned trial's interval is not that of its whole training
