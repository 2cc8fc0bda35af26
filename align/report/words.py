"""The report's sentences: what the numbers say, and what they do not."""

from typing import Any

from align.figures import counted, interval, number, share
from align.report.data import latest_round

METHOD_NAMES = {"dpo": "DPO", "kto": "KTO", "ppo": "PPO", "rloo": "RLOO", "grpo": "GRPO", "best_of_n": "best of n"}


def headline(data: dict[str, Any]) -> str:
    """One sentence: whether the latest evaluated round is better than the first policy."""
    last, first = latest_round(data), data["first_policy"]
    if last is None:
        return {
            "waiting": "The first answers are waiting for labels",
            "unfinished": "This run is at its beginning: no round is evaluated yet",
            "finished": "No round is evaluated",
            "blocked": "A stage stopped this run before a round was evaluated",
        }[data["state"]]
    found, name = last["win_rate_vs_sft"], f"Round {last['round']}"
    if found is None and data["judge"] and data["judge"]["type"] == "people":
        pending = "too few were judged to say" if data["state"] == "finished" else "people have not said yet"
        return f"{name} is trained; {pending} whether it is better"
    if found is None:
        return f"{name} is done; without a judge nobody says whether it is better"
    if found["low"] > 0.5:
        return f"{name} beats {first} on held-out prompts"
    if found["high"] < 0.5:
        return f"{name} is worse than {first} on held-out prompts"
    return f"No difference shown between round {last['round']} and {first}"


def lede(data: dict[str, Any]) -> list[str]:
    """What stands beneath the headline: the number, against the parent, length, who labelled and who judged."""
    last, first = latest_round(data), data["first_policy"]
    sentences = []
    if data["shuffled_labels"]:
        sentences.append("Labels were shuffled on purpose (the null control), so no difference is the right result.")
    if last is not None:
        if (found := last["win_rate_vs_sft"]) is not None:
            sentences.append(
                f"That is the share of comparisons that its answers win, ties counting half, with its 95% interval "
                f"over {counted(found['clusters'], 'held-out prompt')}; 0.5 is no difference."
            )
        sentences += [*_against_parent(last), *_length(data["sft"], last, first)]
    sentences += _sources(data)
    return sentences if data["state"] == "finished" else [*sentences, data["state_text"]]


def _against_parent(last: dict[str, Any]) -> list[str]:
    found = last["win_rate_vs_parent"]
    if found is None or last["round"] == 1:
        return []
    numbers = interval(found)
    parent = f"round {last['round'] - 1}"
    if found["low"] > 0.5:
        return [f"It also beats {parent}, which it was trained from: {numbers}."]
    if found["high"] < 0.5:
        return [f"But it is worse than {parent}, which it was trained from: {numbers}."]
    return [f"Against {parent}, which it was trained from, no difference is shown: {numbers}."]


def _length(old: dict[str, Any], last: dict[str, Any], first: str) -> list[str]:
    """Length is the commonest way to win without being better, so it is named beside the win rate."""
    if not old["mean_tokens"]:
        return []
    ratio = last["mean_tokens"] / old["mean_tokens"]
    lengths = f"{old['mean_tokens']:.0f} to {last['mean_tokens']:.0f} tokens on average"
    if abs(ratio - 1) < 0.1:
        return [f"Answers are about as long as {first}'s ({lengths})."]
    if ratio < 1:
        return [f"Answers are {share(1 - ratio)} shorter than {first}'s ({lengths})."]
    return [f"Answers are {100 * (ratio - 1):.0f}% longer than {first}'s ({lengths}): weigh that beside the win rate."]


def _sources(data: dict[str, Any]) -> list[str]:
    labels = {
        "people": "People label.",
        "personas": "Simulated annotators label, through the same server as people.",
        "file": "Labels come from a file.",
        None: "Nobody labels: scoring functions say what is good.",
    }[data["labels_from"]]
    judge = data["judge"]
    if judge is None:
        judged = None
    elif judge["type"] == "people":
        who = "Simulated annotators" if data["labels_from"] == "personas" else "People"
        judged = f"{who} also judged, in blind comparisons that show neither which policy wrote what nor any score."
    elif judge["hidden_preference"]:
        judged = f"The judge, {judge['name']}, is the hidden preference that the annotators follow."
    else:
        judged = f"The judge is {judge['name']}, which is not a person."
    return [sentence for sentence in (labels, judged) if sentence]


def raised(found: dict[str, Any], method: str) -> str | None:
    """A sentence about the reward that a round's training raised, or None where it raised none."""
    reward, name = found["reward"], METHOD_NAMES[method]
    if reward is None:
        return None
    if "best" in reward:
        what = f"the best answers that it learned have a mean reward of {number(reward['best'])}"
        return f"Round {found['round']}, {name}: {what}, and all of them {number(reward['all'])}."
    what = f"{name} took the mean reward from {number(reward['first'])} to {number(reward['last'])}"
    kl = (
        ""
        if reward["kl"] is None
        else f", with {number(reward['kl'], 3)} nats per token of KL divergence to its parent"
    )
    return f"Round {found['round']}: {what}{kl}."


def judged_blind(found: dict[str, Any], simulated: bool) -> str:
    """A sentence about a round's blind comparisons: by whom, about how many prompts, and what else came of them."""
    won = found["win_rate_vs_sft"]
    people = counted(won["annotators"], "simulated annotator" if simulated else "annotator")
    reasons = [f"{won['same']} because both answers were the same, so that nobody was asked"] if won["same"] else []
    reasons += [f"{won['both_bad']} because both were bad"] if won["both_bad"] else []
    sentences = [
        f"Round {found['round']} was judged by {people}, blind, on {counted(won['clusters'] - won['same'], 'prompt')}: "
        f"{counted(won['wins'], 'win')}, {counted(won['losses'], 'loss', 'losses')} and {counted(won['ties'], 'tie')}"
        + (f" ({'; '.join(reasons)})" if reasons else ""),
        *([f"Somebody skipped {counted(won['unscored'], 'comparison')}"] if won["unscored"] else []),
        *([f"{counted(won['unanswered'], 'comparison')} got no answer"] if won["unanswered"] else []),
    ]
    return ". ".join(sentences) + "."


GLOSSARY = {
    "Win rate": "How often an answer of one policy is better than an answer of the other to the same prompt. A tie counts half, so 0.5 is no difference.",
    "95% interval": "Computed by drawing whole prompts again and again (a prompt-clustered bootstrap): it says how far the number could be off because only so many prompts were tried. It does not cover a biased judge, nor another training seed, and it is not widened for looking at several rounds.",
    "Held-out prompts": "Prompts that no round trained on, chosen by a hash of their text before anything else.",
    "SFT": "Supervised fine-tuning on demonstrations: the policy of round 0 that all rounds are compared with.",
    "Parent": "The policy that a round's answers were sampled from and that its training started from.",
    "Agreement": "Of the comparisons that two or more people answered, the average share of pairs of people who gave the same answer. Alpha (Krippendorff) and kappa (Fleiss) correct it for chance: 1 is perfect, 0 is chance.",
    "Reliability": "The label compiler's estimate of how often an annotator agrees with the truth on a typical clear pair, from whom they agree with and from control items: 1 is always, one half is a coin, and less is somebody who says the opposite.",
    "Control items": "Tasks whose right answer was known beforehand, asked unmarked among the others.",
    "Repeats": "Tasks asked twice of the same person, far apart and with the answers in the opposite order.",
    "Circles": "Prompts where people prefer A to B, B to C and C to A. A pair judged both ways is one of which each answer is preferred by somebody; against oneself, by the same person.",
    "Swayed, in points": "By how many percentage points more often people gave the suggested answer where they saw the suggestion than where it was withheld, drawn at random.",
    "Pairs ranked right": "During training: the share of training pairs to which the policy, compared with its parent, gives the chosen answer the larger gain in probability.",
    "Reward margin": "During training: by how much, in log-probability times beta, the chosen answer gains more than the rejected one.",
    "Held-out pairs": "Pairs of prompts that the reward model did not learn from (reward.model.held_out). New labels are those of the next round, asked about answers that the policy gave after it had learned from this reward model.",
    "Temperature": "What a difference of two scores is divided by before it is read as a probability. It is fitted on pairs that the reward model did not learn from, and each pair is told by the temperature that fits the pairs of other prompts.",
    "Log loss": "The mean surprise at what people preferred, in nats: 0.69 is a coin's, less is better, and being sure and wrong costs most.",
    "Calibration error": "How far apart confidence and being right are on average, over ten groups of pairs of equal number from unsure to sure. It is never 0: in each group some luck is left over.",
    "Mean reward": "During training: what the reward model and the scoring functions give to the policy's own answers. The policy is trained to raise it, so it says nothing about held-out prompts and nothing about people.",
    "KL divergence": "During training: how far the policy's answers have moved from its parent's, in nats per token; 0 is not at all.",
    "Dropped": "A row that went no further. It is counted with its reason; the rows themselves lie in each stage's dropped.parquet.",
    "Wall time": "Seconds of the stages as they ran on this machine. The time in which people label is not in it.",
}
"""Terms of the report, in the order of their appearance."""
