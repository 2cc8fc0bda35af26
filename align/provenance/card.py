"""The card of an exported data set: what the Hub reads, and what people should know."""

from typing import Any

import yaml

from align.figures import counted, interval

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
WHAT = {
    "judgements": "what each annotator said about each task, with the prompt and the answers that were compared",
    "preferences": "pairs compiled from it: `prompt`, `chosen`, `rejected` as messages (TRL's DPO), `target`, the"
    " probability that `chosen` is better, `weight` and `margin`",
    "binary": "binary labels of single answers: `prompt`, `completion`, `label` (TRL's KTO), `target`, the probability that"
    " the answer is good, and `weight`",
    "demonstrations": "answers that annotators wrote instead: `prompt` and `completion` (TRL's SFT)",
}
MODELS = {
    "bradley_terry": "a Bradley–Terry model with ties, with a reliability and a position bias for each annotator",
    "dawid_skene": "Dawid and Skene's model (1979), with a confusion matrix for each annotator",
    "majority": "smoothed majority, which trusts everybody alike",
}


def card(facts: dict[str, Any]) -> str:
    """README.md with the front matter that `datasets` and the Hub read. The license is left to whoever publishes it.

    `facts` has name, files (part → path), counts, kinds and purposes (of the tasks), annotators, named, simulated,
    `compiled` (the label compiler's result) and `agreement` (`annotation.agreement.summary`).
    """
    counts = facts["counts"]
    return "\n".join(
        [
            "---",
            _front_matter(facts),
            "# license: say here under which license this may be used",
            "---",
            "",
            f"# {facts['name']}",
            "",
            f"{'Simulated' if facts['simulated'] else 'Human'} preferences: {counts['judgements']} judgements by {_people(facts)} on {_tasks(facts)}.",
            "",
            "| part | rows | what it is |",
            "|---|---:|---|",
            *(f"| `{part}` | {counts[part]} | {WHAT[part]} |" for part in facts["files"]),
            "",
            f'`datasets.load_dataset("…", "{next(iter(facts["files"]))}")` reads one part.',
            "",
            "## Annotators",
            "",
            _about_annotators(facts),
            "",
            "## Agreement",
            "",
            *_agreement(facts["agreement"]),
            "",
            "## How it was compiled",
            "",
            *_compiling(facts["compiled"]),
            "",
        ]
    )


def _front_matter(facts: dict[str, Any]) -> str:
    total = facts["counts"]["judgements"]
    configs = [
        {"config_name": part, "data_files": [{"split": "train", "path": path}]} for part, path in facts["files"].items()
    ]
    if "preferences" in facts["files"]:
        next(c for c in configs if c["config_name"] == "preferences")["default"] = True
    matter = {
        "pretty_name": facts["name"],
        **({"annotations_creators": ["machine-generated"]} if facts["simulated"] else {}),
        "tags": ["preference", "align"],
        "size_categories": [next((name for limit, name in SIZES if total < limit), "1M<n<10M")],
        "configs": configs,
    }
    return str(yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)).rstrip("\n")


def _people(facts: dict[str, Any]) -> str:
    return f"{facts['annotators']} annotator{'s' if facts['annotators'] != 1 else ''}"


def _tasks(facts: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count} of kind {kind}" for kind, count in facts["kinds"].items())
    purposes = {name: count for name, count in facts["purposes"].items() if name != "train"}
    others = ", ".join(f"{count} {name}" for name, count in purposes.items())
    return f"{sum(facts['kinds'].values())} tasks ({kinds}{'; among them ' + others if others else ''})"


def _about_annotators(facts: dict[str, Any]) -> str:
    if facts["simulated"]:
        return "The annotators are simulated; no person has seen this."
    if facts["named"]:
        return "Annotators stand under the names with which they logged in: ask them before you publish this."
    return (
        "Annotators are called `annotator-1`, `annotator-2` and so on, in no telling order. Ids were replaced by new"
        " ones, and times left out, so that nobody can be found by them. `reason` and `edit` are in people's own words and were not"
        " looked through."
    )


def _agreement(agreement: dict[str, Any]) -> list[str]:
    names = {"percent_agreement": "two annotators say the same", "alpha": "Krippendorff's alpha"}
    lines = []
    for key, what in names.items():
        found = agreement[key]
        if found["value"] is None:
            lines.append(f"- {what}: not known, for {found['reason']}")
        else:
            lines.append(f"- {what}: {interval(found)}, 95% interval over {counted(found['prompts'], 'prompt')}")
    return lines


def _compiling(compiled: Any) -> list[str]:
    return [
        f"Model `{compiled.model}`: {MODELS[compiled.model]}. {compiled.dropped.num_rows} rows went no further, among"
        " them skips and tasks whose answer was known beforehand, which test annotators and are not trained on.",
        "In text, `␛u0000` and the like stand for the character of that number, which files refuse (NUL and lone"
        " surrogates), and `␛u241b` for ␛ itself.",
    ]
