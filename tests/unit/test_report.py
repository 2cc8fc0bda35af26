"""The report's numbers, words and page, from a whole run and from every part of one."""

import json
import math
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import ConfigError, DataError
from align.figures import duration, interval, share
from align.pipeline.receipts import current, stage_folder
from align.pipeline.stage import Ref
from align.report import words
from align.report.data import report_data
from align.report.html import render, visible, write_report
from align.report.people import compilers
from align.report.plots import Estimate, Series, curves_plot, estimates_plot, nice_ticks, thinned, tick_texts
from align.report.provenance import recipe_text
from align.report.table import summary_lines, summary_table
from align.store import read_table
from annotation.journal import record
from tests.fake_run import make_run, rewrite
from tests.labelling import judge

HOSTILE = "<script>hit()</script>\"'><img src=x onerror=hit()>{{ 7*7 }}</style></title>&lt;\u202e\x1b[31m\ud800"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def data(run: Path) -> dict[str, Any]:
    return report_data(run)


def stage_file(run: Path, round: int, stage: str, name: str) -> Path:
    receipt = current(run, Ref(round, stage))
    assert receipt is not None
    return stage_folder(run, Ref(round, stage)) / receipt.key / name


def test_the_numbers_are_those_of_the_stages_files(run: Path, data: dict[str, Any]) -> None:
    assert (data["name"], data["state"], data["seed"], data["rounds_planned"]) == ("support-desk", "finished", 0, 3)
    assert [r["round"] for r in data["rounds"]] == [1, 2, 3] and all(r["missing"] == {} for r in data["rounds"])
    third = data["rounds"][2]
    result = json.loads(stage_file(run, 3, "evaluation", "result.json").read_text())
    for name in ("win_rate_vs_sft", "win_rate_vs_parent", "mean_score", "mean_tokens", "truncated"):
        assert third[name] == result[name]
    said = read_table(stage_file(run, 3, "snapshot", "judgements.parquet")).column("outcome").to_pylist()
    assert third["labels"] == sum(o != "skipped" for o in said) and third["skipped"] == said.count("skipped") > 0
    agreement = json.loads(stage_file(run, 3, "preferences", "agreement.json").read_text())
    assert third["agreement"] == agreement["percent_agreement"]["value"]
    assert third["preferences"] == read_table(stage_file(run, 3, "preferences", "preferences.parquet")).num_rows


def test_which_labels_count_little_is_said_by_name_where_people_look(tmp_path: Path, data: dict[str, Any]) -> None:
    assert [(c["round"], c["model"], c["choice"]) for c in data["compilers"]] == [
        (n, "bradley_terry", None) for n in (1, 2, 3)
    ]
    gains = {"majority": {"gain": 0.02, "error": 0.005}, "dawid_skene": {"gain": -0.01, "error": 0.004}}
    reason = "it predicts held-out labels better by 0.0200 ± 0.0050 in log loss"
    choice = {"model": "majority", "reason": reason, "labels": 600, "pairs": 200, "loss": 0.5, "gains": gains}
    agreement = {
        "compiled": {"model": "majority", "choice": choice, "notes": ["u-1 chose the left answer 95 times of 100."]}
    }
    record(tmp_path / "journal.jsonl", [judge("t", "u-1", "a")], {"u-1": "Maria"})
    run = SimpleNamespace(receipts={Ref(2, "preferences"): None}, path=tmp_path, json=lambda *_: agreement)
    found = compilers(run)  # type: ignore[arg-type]
    assert found == [
        {"round": 2, "model": "majority", "choice": choice, "notes": ["Maria chose the left answer 95 times of 100."]}
    ]
    page = render({**data, "compilers": found, "notes": found[0]["notes"]})
    assert "Maria chose the left answer 95 times of 100." in page
    assert f"Round 2: labels were compiled by majority; {reason}." in page
    assert "on 600 labels, ± a standard error: majority 0.0200 ± 0.0050, dawid_skene −0.0100 ± 0.0040." in page


def test_an_online_run_says_how_far_the_reward_rose_and_draws_it(tmp_path: Path) -> None:
    found = report_data(make_run(tmp_path, rounds=1, method="ppo"))
    assert found["method"] == "ppo"
    assert found["rounds"][0]["reward"] == {"first": 0.25, "last": 1.5, "kl": 0.0625}
    page = Page(render(found))
    shown = "".join(page.texts)
    assert "Round 1: PPO took the mean reward from 0.25 to 1.50, with 0.062 nats per token of KL" in shown
    for title in ("PPO: mean reward of the policy's answers", "reward model: pairs ranked right"):
        assert title in shown
    table = summary_table(found)
    assert table[0][3] == "reward" and [row[3] for row in table[1:]] == ["–", "0.25 → 1.50"]
    stages = {(s["round"], s["stage"]) for s in found["stages"]}
    assert (1, "reward") in stages


def test_reward_models_are_shown_with_what_new_labels_say_against_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=3, method="ppo")
    found = report_data(run)
    first, second, third = found["reward_models"]
    assert (third["fresh"], third["drift"], third["warnings"]) == (None, None, []), "nobody has labelled round 4"
    assert first["fresh"] == json.loads(stage_file(run, 2, "reward_check", "fresh.json").read_text())
    assert second["held_out"] == json.loads(stage_file(run, 2, "reward_check", "held_out.json").read_text())
    assert [said.split(",")[0] for said in second["warnings"]] == [
        "Drift: of the new labels of round 3", "Drift: on the new labels of round 3",
    ]  # fmt: skip
    assert summary_lines(found)[-2:] == second["warnings"], "the terminal says so of the latest round"
    page = Page(render(found))
    shown = "".join(page.texts)
    assert all(said in shown for said in [*first["warnings"], *second["warnings"]]) and "3 earlier" in shown
    for title in ("Accuracy of each round's reward model", "Reliability, round 3", "Accuracy by slice, round 3"):
        assert title in shown
    told = third["held_out"]["calibration"]
    assert f"With a temperature of {told['temperature']:.2f} the calibration error is" in shown
    dots = [text for text in page.texts if text.startswith(("with the temperature: ", "as the scores say: "))]
    assert len(dots) == len(told["before"]["bins"]) + len(told["after"]["bins"])
    about = " of the new labels of round 2 are about prompts that the reward model of round 1 had learned"
    assert f"{first['seen']}{about}" in shown and first["seen"] > 0
    first["seen"] = 0
    assert about not in render(found)
    steady = report_data(make_run(tmp_path / "steady", rounds=2, method="ppo", forgets=1.0))
    assert steady["reward_models"][0]["drift"] is not None and steady["reward_models"][0]["warnings"] == []


def test_a_reward_model_that_was_only_trained_shows_what_its_training_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1, method="ppo", stop_before="1/reward_check")
    found = report_data(run)
    assert [model["held_out"] for model in found["reward_models"]] == [None]
    assert 'id="reward"' not in render(found)
    found["reward_models"][0]["held_out"] = {"accuracy": {"mean": 0.75, "low": 0.5, "high": 0.9, "n": 4, "clusters": 4},
                                             "log_loss": {}, "pairs": 4}  # fmt: skip
    shown = "".join(Page(render(found)).texts)
    assert "Held-out pairs" in shown and "[0.50, 0.90]" in shown


def test_a_run_without_labels_says_why_it_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1, method="ppo", labels=False)
    found = report_data(run)
    assert found["labels_from"] is None
    assert found["rounds"][0]["missing"]["labels"] == "scoring functions alone say what is good"
    assert "Nobody labels: scoring functions say what is good." in words.lede(found)
    render(found)


def test_a_rounds_time_is_the_sum_of_its_stages(data: dict[str, Any]) -> None:
    by_round: Counter[int] = Counter()
    for stage in data["stages"]:
        by_round[stage["round"]] += stage["seconds"]
    assert {r["round"]: pytest.approx(r["seconds"]) for r in [data["sft"], *data["rounds"]]} == dict(by_round)
    assert 60 < data["rounds"][0]["seconds"] < 80


def test_dropped_rows_are_counted_by_reason(run: Path, data: dict[str, Any]) -> None:
    assert data["sft"]["dropped"] == {"prompt: duplicate: the same prompt as prompts.jsonl:12": 3}
    first = data["rounds"][0]["dropped"]
    assert first["prompt: the prompt has 1824 tokens; max_prompt_tokens is 512"] == 1
    stages = ("rollouts", "tasks", "preferences")
    rows = sum(read_table(stage_file(run, 1, stage, "dropped.parquet")).num_rows for stage in stages)
    assert sum(first.values()) == rows and list(first.values()) == sorted(first.values(), reverse=True)


def test_annotators_add_up_over_rounds(run: Path, data: dict[str, Any]) -> None:
    assert [a["annotator"] for a in data["annotators"]] == ["ada", "bo", "chi"]
    assert sum(a["labels"] for a in data["annotators"]) == sum(r["labels"] for r in data["rounds"])
    assert sum(a["skipped"] for a in data["annotators"]) == sum(r["skipped"] for r in data["rounds"])
    assert all(0.3 < a["left"]["low"] < a["left"]["value"] < 0.7 for a in data["annotators"])
    compiled = [json.loads(stage_file(run, n, "preferences", "agreement.json").read_text()) for n in (1, 2, 3)]
    for person in data["annotators"]:
        name, latest = person["annotator"], compiled[-1]["compiled"]["annotators"][person["annotator"]]["reliability"]
        assert person["reliability"] == {**latest, "round": 3} and 0.5 < latest["value"] < 1
        assert person["left"]["n"] == sum(c["annotators"][name]["left"]["n"] for c in compiled)
        assert person["gold"] is person["consistency"] is None, "there were no such tasks"


def test_learning_curves_come_from_the_metrics_log(data: dict[str, Any]) -> None:
    found = {(c["round"], c["metric"]): c["points"] for c in data["learning_curves"]}
    assert set(found) == {(0, "loss")} | {
        (n, m) for n in (1, 2, 3) for m in ("loss", "rewards/accuracies", "rewards/margins")
    }
    assert found[1, "loss"][0][0] == 1 and len(found[1, "loss"]) == 48


def test_samples_are_drawn_by_the_seed_whatever_their_scores(tmp_path: Path, data: dict[str, Any]) -> None:
    samples = data["samples"]
    assert (len(samples["rows"]), samples["of"], samples["first"], samples["latest"]) == (20, 120, 0, 3)
    worse = report_data(make_run(tmp_path / "a", rounds=1, learns=-0.2))["samples"]
    assert [r["prompt_id"] for r in worse["rows"]] == [r["prompt_id"] for r in samples["rows"]]
    assert [r["better"] for r in worse["rows"]] != [r["better"] for r in samples["rows"]]
    other = report_data(make_run(tmp_path / "b", rounds=1, seed=1))["samples"]
    assert [r["prompt_id"] for r in other["rows"]] != [r["prompt_id"] for r in samples["rows"]]


def test_a_sample_is_better_by_the_judges_tie_width(run: Path, data: dict[str, Any]) -> None:
    for row in data["samples"]["rows"]:
        gain = row["latest"]["score"] - row["first"]["score"]
        expected = "tie" if abs(gain) < 0.05 else "latest" if gain > 0 else "first"
        assert row["better"] == expected
    assert {r["better"] for r in data["samples"]["rows"]} == {"latest", "first", "tie"}


STAGES = ("rollouts", "tasks", "snapshot", "preferences", "policy", "evaluation")
PARTS = ["0/prompts", "0/policy", "0/evaluation", *(f"{n}/{name}" for n in (1, 2) for name in STAGES)]


@pytest.mark.parametrize("stop", PARTS)
def test_every_part_of_a_run_has_a_report(tmp_path: Path, run: Path, stop: str) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    for stage in [*PARTS[PARTS.index(stop) :], *(f"3/{name}" for name in STAGES)]:
        (stage_folder(run, Ref(int(stage[0]), stage[2:])) / "current").unlink()
    found = report_data(run)
    json.dumps(found, allow_nan=False)
    assert found["state"] == ("waiting" if stop.endswith("snapshot") else "unfinished")
    for policy in (found["sft"], *found["rounds"]):
        for name, value in policy.items():
            wanted = name in ("labels", "preferences", "agreement", "win_rate_vs_sft", "mean_score", "mean_tokens")
            assert value is not None or not wanted or policy["missing"][name], f"{name} is missing without a reason"
    page = write_report(run).read_text()
    assert found["state_text"] in page and page.rstrip().endswith("</html>")
    assert len(summary_table(found)) == 2 + len(found["rounds"])


def test_waiting_says_how_much_is_still_to_do(tmp_path: Path) -> None:
    found = report_data(make_run(tmp_path, stop_before="1/snapshot"))
    assert found["state_text"] == "Round 1 is waiting for labels: 92 of 182 are given."
    assert words.headline(found) == "The first answers are waiting for labels"
    assert found["rounds"][0]["missing"]["labels"] == "the stage 1/snapshot has not run yet"


def test_a_stage_left_behind_by_a_change_is_not_mixed_in(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=2)
    rewrite(stage_file(run, 1, "policy", "receipt.json"), lambda receipt: receipt.update(output="changed", check=""))
    found = report_data(run)
    assert (found["state"], found["state_text"]) == ("unfinished", "The last finished stage is 1/policy.")
    assert [r["round"] for r in found["rounds"]] == [1] and found["rounds"][0]["win_rate_vs_sft"] is None
    left = ", ".join(
        [
            "1/evaluation",
            *(f"2/{name}" for name in STAGES),
        ]
    )
    assert found["notes"] == [
        f"Left out, because an earlier stage has changed since: {left}. The next `align run` does them again."
    ]
    assert found["samples"]["latest"] is None


def test_a_run_made_with_two_versions_says_so(tmp_path: Path) -> None:
    def later(receipt: dict[str, Any]) -> None:
        receipt["code"]["trl"], receipt["check"] = "9.9", ""

    run = make_run(tmp_path, rounds=1)
    rewrite(stage_file(run, 1, "policy", "receipt.json"), later)
    found = report_data(run)
    old = found["versions"]["trl"].split(", ")[0]
    assert found["notes"] == [f"Stages of this run were made with different versions of trl ({old}, 9.9)."]


def test_errors_name_the_place_and_the_way_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1, stop_before="0/evaluation")
    with pytest.raises(ConfigError, match=r"supprt-session: there is no run .*; the runs there are support-desk"):
        report_data(tmp_path / "supprt-session")
    stage_file(run, 0, "policy", "receipt.json").write_text("{")
    with pytest.raises(DataError, match=r"the receipt of 0/policy is damaged; .*`align run RECIPE --from 0/policy`"):
        report_data(run)


def test_a_run_without_annotators_or_judge(tmp_path: Path) -> None:
    found = report_data(make_run(tmp_path, judge=False, sft=False, rounds=1))
    assert found["rounds"][0]["missing"]["win_rate_vs_sft"] == "the recipe names no judge"
    assert words.headline(found) == "Round 1 is done; without a judge nobody says whether it is better"
    assert summary_table(found)[0][2] == "win rate over the given model"
    assert "not judged" in render(found)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with gold, repeats and suggestions, in which people judge blind."""
    runs = tmp_path_factory.mktemp("runs")
    return make_run(runs, rounds=2, judge=False, people_judge=True, controls=True)


def test_control_items_and_repeats_are_counted_for_each_annotator(controlled: Path) -> None:
    found = report_data(controlled)
    for person in found["annotators"]:
        assert 10 < person["gold"]["n"] < 30 and person["gold"]["hits"] > 0.7 * person["gold"]["n"]
        assert person["consistency"]["n"] > 3 and person["compared"] > 10
    said = [read_table(stage_file(controlled, n, "snapshot", "judgements.parquet")).num_rows for n in (1, 2)]
    assert sum(p["labels"] + p["skipped"] for p in found["annotators"]) > sum(said), "blind skips come on top"
    page = render(found)
    first = found["annotators"][0]["gold"]
    assert f"<span>{first['hits']} of {first['n']}</span>" in page
    for heading in (
        "Reliability",
        "Control items right",
        "Repeats alike",
        "Blind comparisons",
        "Pairs judged both ways",
    ):
        assert f'<th class="num">{heading}</th>' in page, heading


def test_what_suggestions_did_is_said_and_stands_in_the_table(controlled: Path) -> None:
    found = report_data(controlled)["rounds"][0]["suggestion_effect"]
    assert found["effect"]["value"] == pytest.approx(found["shown"]["value"] - found["not_shown"]["value"])
    assert 0.05 < found["effect"]["value"] < 0.4, "these annotators follow three in ten suggestions"
    page = render(report_data(controlled))
    assert "Swayed, in points</th>" in page and f"<span>+{100 * found['effect']['value']:.0f} <small>" in page
    assert f"Round 1: the suggested answer was given in {share(found['shown']['value'])}" in page


def test_a_plain_run_has_no_empty_columns(data: dict[str, Any]) -> None:
    page = render(data)
    assert (
        "Reliability</th>" in page
        and "Swayed, in points</th>" not in page
        and "Control items right" not in page
        and "Repeats alike" not in page
    )


def test_a_blind_win_rate_stands_in_the_table_like_any_other(controlled: Path) -> None:
    found = report_data(controlled)
    assert (found["state"], found["judge"]) == ("finished", {"type": "people"})
    result = json.loads(stage_file(controlled, 2, "blind_result", "result.json").read_text())["win_rate_vs_sft"]
    last = found["rounds"][-1]
    assert last["win_rate_vs_sft"] == result and result["clusters"] <= 60 and result["low"] > 0.5
    assert words.headline(found) == "Round 2 beats SFT on held-out prompts"
    assert "judged, in blind comparisons" in " ".join(words.lede(found))
    assert summary_table(found)[-1][2] == interval(result)
    assert summary_table(found)[0][2] == "win rate over SFT, judged blind"
    assert (
        f"Round 2 was judged by {result['annotators']} simulated annotators, blind, on "
        f"{result['clusters'] - result['same']} prompts: {result['wins']} wins" in render(found)
    )
    assert last["missing"]["mean_score"].startswith("people compare answers")
    assert "could not be scored" not in render(found), "that is about a judge's scores"


def test_a_blind_comparison_is_told_with_what_became_of_the_rest() -> None:
    won = {
        "annotators": 1,
        "clusters": 5,
        "same": 2,
        "wins": 1,
        "losses": 1,
        "ties": 3,
        "both_bad": 1,
        "unscored": 1,
        "unanswered": 2,
    }
    assert words.judged_blind({"round": 1, "win_rate_vs_sft": won}, simulated=False) == (
        "Round 1 was judged by 1 annotator, blind, on 3 prompts: 1 win, 1 loss and 3 ties (2 because both answers were the "
        "same, so that nobody was asked; 1 because both were bad). Somebody skipped 1 comparison. 2 comparisons got no answer."
    )
    bare = won | {"annotators": 2, "same": 0, "both_bad": 0, "unscored": 0, "unanswered": 0}
    assert words.judged_blind({"round": 2, "win_rate_vs_sft": bare}, simulated=True) == (
        "Round 2 was judged by 2 simulated annotators, blind, on 5 prompts: 1 win, 1 loss and 3 ties."
    )


def test_a_run_waits_for_people_who_judge(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=2, judge=False, people_judge=True, stop_before="1/blind_snapshot")
    found = report_data(run)
    assert found["state"] == "waiting"
    assert re.fullmatch(
        r"Round 1 is waiting for labels of its comparison with the first policy: \d+ of \d+ are given\.",
        found["state_text"],
    )
    assert words.headline(found) == "Round 1 is trained; people have not said yet whether it is better"
    assert found["rounds"][0]["missing"]["win_rate_vs_sft"] == "the stage 1/blind_result has not run yet"
    assert "has not run yet" in render(found)


def changed(data: dict[str, Any], mean: float, low: float, high: float) -> dict[str, Any]:
    last = {**data["rounds"][-1], "win_rate_vs_sft": {"mean": mean, "low": low, "high": high, "clusters": 50}}
    return {**data, "rounds": [*data["rounds"][:-1], last]}


def test_the_headline_claims_only_what_the_interval_shows(data: dict[str, Any]) -> None:
    assert words.headline(changed(data, 0.78, 0.73, 0.83)) == "Round 3 beats SFT on held-out prompts"
    assert words.headline(changed(data, 0.55, 0.5, 0.6)) == "No difference shown between round 3 and SFT"
    assert words.headline(changed(data, 0.45, 0.4, 0.5)) == "No difference shown between round 3 and SFT"
    assert words.headline(changed(data, 0.3, 0.2, 0.4)) == "Round 3 is worse than SFT on held-out prompts"


def test_the_lede_names_length_parent_and_judge(data: dict[str, Any]) -> None:
    text = " ".join(words.lede(data))
    assert "It also beats round 2, which it was trained from: 0.73 [" in text
    assert "Answers are 15% shorter than SFT's (24 to 21 tokens on average)." in text
    assert "The judge, world.py:utility, is the hidden preference that the annotators follow." in text
    longer = {**data, "sft": {**data["sft"], "mean_tokens": 10.0}}
    assert "Answers are 105% longer than SFT's (10 to 21 tokens on average): weigh that" in " ".join(words.lede(longer))
    assert "Labels were shuffled" in words.lede({**data, "shuffled_labels": True})[0]


@pytest.mark.parametrize(
    "value, text",
    [
        (0.5, "50%"),
        (1.0, "100%"),
        (0.0, "0%"),
        (0.997, "99.7%"),
        (0.9999, "more than 99.9%"),
        (0.0001, "less than 0.1%"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(value: float, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.31, "0.3 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3599.7, "1 h 0 min"),
        (3725, "1 h 2 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_terminal_table(data: dict[str, Any]) -> None:
    lines = summary_lines(data)
    assert lines[0] == "round    labels  win rate over SFT  agreement        time"
    assert lines[1] == "0 (SFT)       –  –                          –  1 min 28 s"
    won = data["rounds"][0]["win_rate_vs_sft"]
    assert lines[2].startswith(f"1           182  {won['mean']:.2f} [{won['low']:.2f}, {won['high']:.2f}]")
    assert len({len(line) for line in lines}) == 1 and len(lines) == 5


def test_secrets_do_not_travel_with_the_recipe() -> None:
    text = "\n".join(
        [
            "name: demo",
            "dpo: {max_tokens: 64}",
            "max_prompt_tokens: 512",
            "annotate:",
            "  server: {type: remote, url: https://owner:hunter2@host/argilla}",
            "  api_key: argilla.0123456789",
            "  api_key_env: ARGILLA_API_KEY",
            "trainer:",
            '  "hub_token": hf_abcdefghijklmnop',
            "  note: see sk-abcdefghijklmnop1234",
            "  my_password: 'x y'",
        ]
    )
    shown = recipe_text(text)
    for secret in ("hunter2", "0123456789", "abcdefghijklmnop", "x y"):
        assert secret not in shown
    for kept in (
        "max_tokens: 64",
        "max_prompt_tokens: 512",
        "api_key_env: ARGILLA_API_KEY",
        "@host/argilla",
        "name: demo",
    ):
        assert kept in shown


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, text: str) -> None:
        self.texts.append(text)


def hostile(value: Any) -> Any:
    """`value` with every text in it made hostile, keys of free text (reasons, names) included."""
    if isinstance(value, str):
        return (
            value
            if value
            in (
                "finished",
                "SFT",
                "personas",
                "latest",
                "tie",
                "first",
                "stop",
                "length",
                "user",
                "evaluation",
                "policy",
                "rollouts",
                "dpo",
            )
            else HOSTILE
        )
    if isinstance(value, list):
        return [hostile(v) for v in value]
    if isinstance(value, dict):
        free = {"dropped", "versions", "files"}
        return {
            k: dict.fromkeys([HOSTILE], next(iter(x.values()))) if k in free and x else hostile(x)
            for k, x in value.items()
        }
    return value


def test_hostile_text_stays_text_wherever_it_stands(data: dict[str, Any]) -> None:
    clean, attacked = Page(render(data)), Page(render(hostile(data)))
    assert set(attacked.tags) == set(clean.tags) and "script" not in clean.tags and "img" not in clean.tags
    assert {n for n, _ in attacked.attributes} == {n for n, _ in clean.attributes}
    shown = "".join(attacked.texts)
    literal = (
        "<script>hit()</script>\"'><img src=x onerror=hit()>{{ 7*7 }}</style></title>&lt;‹U+202E›‹U+001B›[31m‹U+D800›"
    )
    assert shown.count(literal) > 50
    assert not any(c in shown for c in "\u202e\x1b\ud800")


def test_the_page_asks_for_nothing(data: dict[str, Any]) -> None:
    page = render(data)
    found = Page(page)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in dict(found.attributes)["content"] + page
    links = [v for n, v in found.attributes if n in ("src", "href", "srcset", "action", "data", "poster", "background")]
    assert links and all(v.startswith("#") or v == "data:," for v in links)
    assert "http://" not in page and "https://" not in page and "url(" not in page and "@import" not in page
    anchors = {v[1:] for v in links if v.startswith("#")}
    assert anchors <= {v for n, v in found.attributes if n == "id"}


def test_the_page_has_what_it_promises(data: dict[str, Any]) -> None:
    page = render(data)
    assert page.count('<article class="sample">') == 20
    assert page.count("<svg") == 3 + 4
    for name in (
        "support-desk",
        "0.92 [",
        "ada",
        data["rounds"][2]["checkpoint"],
        "beta: 0.1",
        "pyarrow",
        "drawn at random",
    ):
        assert name in page


def test_a_report_is_written_again_over_an_old_one(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "report.html").write_text("old")
    assert write_report(copy) == copy / "report.html"
    first = (copy / "report.html").read_bytes()
    write_report(copy)
    assert (copy / "report.html").read_bytes() == first and b"Round 3 beats SFT" in first


def test_visible_keeps_what_can_be_seen() -> None:
    assert visible("a\tb\r\nc é 漢 🙂 עברית") == "a\tb\nc é 漢 🙂 עברית"
    assert visible("\x00\x9b\u2066") == "‹U+0000›‹U+009B›‹U+2066›"
    assert visible(3) == 3


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 8))
def test_ticks_enclose_the_values_and_are_few(low: float, width: float, wanted: int) -> None:
    high = low + width
    if not high > low + abs(low) * 1e-9:
        return
    ticks = nice_ticks(low, high, wanted)
    slack = (high - low) * 1e-3
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= wanted + 3 and ticks == sorted(set(ticks))


def test_ticks_read_well() -> None:
    assert nice_ticks(0.46, 0.83) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert tick_texts([-0.5, 0.0, 0.5]) == ["−0.5", "0.0", "0.5"] and tick_texts([0, 5, 10]) == ["0", "5", "10"]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=1000))
def test_thinning_keeps_the_mean_of_equal_stretches(values: list[float]) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    thin = thinned(points, most=50)
    assert len(thin) <= 50
    size = math.ceil(len(points) / 50)
    assert thin[0][1] == pytest.approx(sum(values[:size]) / len(values[:size]))


def test_curves_survive_flat_single_and_broken_values() -> None:
    flat = [(float(i), 0.0) for i in range(3)]
    broken = [(0.0, math.nan), (1.0, 1.0), (2.0, math.inf), (3.0, 2.0)]
    for points in (flat, broken, flat[:1]):
        assert "nan" not in curves_plot([("round 1", 1, points)], title="loss")


def test_texts_in_pictures_are_escaped() -> None:
    series = Series("<b>&\"'", "main", [Estimate(1, 0.5, 0.4, 0.6)])
    picture = estimates_plot([series], title='"><i>', labels={1: "<i>"}, form=str, line=(0.5, "<u>"))
    found = Page(picture)
    assert set(found.tags) == {"svg", "g", "line", "circle", "text", "title"}
