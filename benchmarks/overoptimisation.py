"""Over-optimisation on support-desk: best-of-n against one member of an ensemble of reward models and against all of
them.

    python benchmarks/overoptimisation.py [--short] [--folder DIR] [--seeds 0 1 … 9] [--ensemble members|separate]
        [--threads N] [--figure FILE]

In the shape of Gao et al. (2022): the more answers a reward model chooses from, the further best-of-n is from the
policy (the square root of the KL divergence, `kl_of_best`), the higher its score, and, from some point on, the lower
the utility that the score stands for. For each seed the SFT policy answers train prompts, simulated annotators say
which of two answers is better, and reward models learn from few such pairs. Then every reward chooses among the same
answers to held-out prompts: each member of an ensemble by itself (`member`, the mean over members), a model trained
alone on all the pairs (`alone`), the ensemble's mean (`mean`), and its mean less BOUND standard deviations (`lower`). A
random choice stays at 0. Expectations for every n come from one sample of answers without bias
(align.evaluation.best_of_n).

The members are those that `members: 64` makes (`members`), whose mean is a model trained alone; or five
whole models, each of a bootstrap of the pairs (`separate`: Coste et al. 2023).

What counts is the highest point of the utility's curve, smoothed by the form that Gao et al. found for best-of-n,
d (α − β d), where d is the square root of the KL divergence: `lower` less `member`, in height and in place, with 95%
intervals of a bootstrap over seeds and prompts together (pigeonhole bootstrap: Owen 2007). All numbers are in standard
deviations of the policy's own answers to a prompt, and 0 is the policy's mean.

The settings were chosen on other seeds (20 to 22), their pairs, and other held-out prompts. Each part's result
stays in DIR and is not made again, so that seeds may be made at different times. `--figure FILE` writes the curves.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.config.base import Sampling
from align.config.training import RewardModel
from align.evaluation.best_of_n import chances, kl_of_best, kl_with_ties
from align.ids import content_id, seed_for
from align.report.plots import Frame, nice_ticks, tick_texts
from align.types import Message, Preference, Prompt
from benchmarks import support_desk
from rollouts.sample import sample_candidates

PAIRS, MODELS, MEMBERS, BOUND = 64, 5, 64, 0.3
TEMPERATURE, SAMPLES, PROMPTS = 1.0, 128, 24
"""Of the answers that best-of-n chooses from, for each held-out prompt."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""The n of best-of-n; half of SAMPLES at most, since the largest n rest on few answers."""
SEEDS, PILOT_SEEDS = range(10), range(20, 25)
ROOTS = np.sqrt([kl_of_best(n) for n in COUNTS])
REWARD = RewardModel(learning_rate=1e-3, epochs=8, batch_size=16, max_tokens=160)
DRAWS = 10_000


@dataclass(frozen=True)
class Answers:
    """Held-out prompts, `SAMPLES` answers to each, and the hidden utility of every answer, [prompts, samples]."""

    messages: list[list[Message]]
    texts: list[list[str]]
    utilities: NDArray


@dataclass(frozen=True)
class Curves:
    """Of one reward over seeds, prompts and `COUNTS`, in standard deviations: its own score, and the utility."""

    score: NDArray
    utility: NDArray


@dataclass(frozen=True)
class Peak:
    """The highest point of a smoothed curve: how high, at which root of the KL divergence; `ends` where it is the
    last."""

    height: float
    root: float
    ends: bool


def sampled(folder: Path, prompts: Sequence[Prompt], samples: int, threads: int | None) -> Answers:
    """Every answer is kept, also those that repeat: best-of-n draws independently."""
    policy = support_desk.sft_policy(folder / "policy")
    found, _ = sample_candidates(
        prompts, policy, policy.name, sampling=Sampling(temperature=TEMPERATURE, max_tokens=64), samples=samples,
        engine="transformers", dtype="float32", max_prompt_tokens=96, shard=8, seed=1, threads=threads,
        out=folder / "held-out", keep_all=True,
    )  # fmt: skip
    by_prompt: dict[str, list[str]] = {prompt.id: [] for prompt in prompts}
    for candidate in found:
        by_prompt[candidate.prompt_id].append(candidate.text)
    utilities = [[support_desk.utility(p.messages, text) for text in by_prompt[p.id]] for p in prompts]
    return Answers([p.messages for p in prompts], list(by_prompt.values()), np.array(utilities))


def scores(folder: Path, seed: int, way: str, answers: Answers, threads: int | None) -> NDArray:
    """What each member of a seed's ensemble says of each answer, [prompts, samples, members]; made once and kept."""
    settings = content_id([PAIRS, REWARD.model_dump(mode="json"), answers.messages, answers.texts])
    file = folder / settings / f"{way}-{seed}.npy"
    if not file.is_file():
        from reward.ensemble import EnsembleScorer
        from reward.model import ModelScorer

        texts = [(m, text) for m, some in zip(answers.messages, answers.texts, strict=True) for text in set(some)]
        asked, said = [m for m, _ in texts], [text for _, text in texts]
        models = trained(folder, seed, way, threads)
        if way == "members":
            found = EnsembleScorer(models[0], threads=threads).members(asked, said)
        else:
            each = [ModelScorer(model, threads=threads).score(asked, said) for model in models]
            found = [list(row) for row in zip(*each, strict=True)]
        known = {(id(m), text): row for (m, text), row in zip(texts, found, strict=True)}
        pairs = zip(answers.messages, answers.texts, strict=True)
        file.parent.mkdir(exist_ok=True)
        partial = file.with_name(f"partial-{file.name}")
        np.save(partial, np.array([[known[id(m), text] for text in some] for m, some in pairs], dtype=np.float64))
        partial.rename(file)
    return np.load(file, allow_pickle=False)


def trained(folder: Path, seed: int, way: str, threads: int | None) -> list[Path]:
    """The reward models of a seed, all of the same pairs: `alone` one of them all, `members` an ensemble in one folder,
    `separate` one for each member, of a bootstrap of the pairs."""
    policy = support_desk.sft_policy(folder / "policy")
    pairs = support_desk.pairs(policy, PAIRS, seed=seed, folder=folder / f"answers-{seed}")
    if way != "separate":
        return [train(folder, policy, pairs, seed, MEMBERS if way == "members" else 1, threads)]
    draws = [random.Random(f"{seed}-{member}") for member in range(MODELS)]
    return [
        train(folder, policy, draw.choices(pairs, k=len(pairs)), seed_for(seed, member), 1, threads)
        for member, draw in enumerate(draws)
    ]


def train(
    folder: Path, policy: Path, pairs: Sequence[Preference], seed: int, members: int, threads: int | None
) -> Path:
    from reward.train import train_reward

    config = REWARD.model_copy(update={"members": members})
    name = content_id([config.model_dump(mode="json"), seed, [[pair.id, pair.target] for pair in pairs]])
    out = folder / "rewards" / name
    if not (out / "config.json").is_file():
        metrics = train_reward(
            policy, pairs, config, seed=seed, dtype="float32", report_to=[], threads=threads, out=out,
            work=folder / "work" / name,
        )  # fmt: skip
        print(f"{members} member(s), seed {seed}: {metrics}", file=sys.stderr)
    return out


def rewards(of_members: NDArray, alone: NDArray) -> dict[str, list[NDArray]]:
    """For each kind of reward the scores to choose by, [prompts, samples]; several where their curves are averaged."""
    mean, deviation = of_members.mean(axis=2), of_members.std(axis=2, ddof=1)
    return {
        "member": list(np.moveaxis(of_members, 2, 0)),
        "alone": [alone[:, :, 0]],
        "mean": [mean],
        "lower": [mean - BOUND * deviation],
    }


def curve(scores: NDArray, utilities: NDArray) -> tuple[NDArray, NDArray]:
    """Best-of-n's expected score and utility, each [prompts, COUNTS], in standard deviations within a prompt."""
    chance = np.array([[chances(row, n) for n in COUNTS] for row in scores])  # [prompts, counts, samples]

    def of(values: NDArray) -> NDArray:
        spread = np.sqrt(values.var(axis=1, ddof=1).mean())
        return np.einsum("pns,ps->pn", chance, (values - values.mean(axis=1, keepdims=True)) / spread)

    return of(scores), of(utilities)


def all_curves(per_seed: Sequence[Mapping[str, list[NDArray]]], utilities: NDArray) -> dict[str, Curves]:
    found = {}
    for kind in per_seed[0]:
        both = [[curve(scores, utilities) for scores in seed[kind]] for seed in per_seed]
        score, utility = np.moveaxis(np.array(both).mean(axis=1), 1, 0)
        found[kind] = Curves(score, utility)
    return found


def smoothed(means: NDArray) -> tuple[NDArray, NDArray]:
    """The highest point of d (α − β d), fitted by least squares to curves [..., COUNTS]: its height and its d, which
    lies between 0 and the last of ROOTS."""
    alpha, beta = np.moveaxis(means @ np.linalg.pinv(np.stack([ROOTS, -(ROOTS**2)], axis=1)).T, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        top = np.where(beta > 0, alpha / (2 * beta), np.where(alpha > 0, np.inf, 0))
    root = np.clip(top, 0, ROOTS[-1])
    return root * (alpha - beta * root), root


def resampled(utility: NDArray, seed: int) -> NDArray:
    """Mean curves over drawn seeds and drawn prompts, [DRAWS, COUNTS]; the same draws for every reward."""
    rng = np.random.default_rng(seed)
    seeds, prompts, counts = utility.shape
    of_seeds = rng.multinomial(seeds, [1 / seeds] * seeds, size=DRAWS) / seeds
    of_prompts = rng.multinomial(prompts, [1 / prompts] * prompts, size=DRAWS) / prompts
    by_prompt = (of_seeds @ utility.reshape(seeds, -1)).reshape(DRAWS, prompts, counts)
    return np.einsum("dp,dpn->dn", of_prompts, by_prompt)


def difference(curves: Mapping[str, Curves], kind: str, other: str) -> dict[str, Any]:
    """The highest point with `kind` less that with `other`, in height and in place, with 95% intervals."""
    found: dict[str, Any] = {}
    point = [smoothed(curves[k].utility.mean(axis=(0, 1))) for k in (kind, other)]
    drawn = [smoothed(resampled(curves[k].utility, 0)) for k in (kind, other)]
    each = [smoothed(curves[k].utility.mean(axis=1)) for k in (kind, other)]
    for place, name in enumerate(("height", "root_kl")):
        low, high = np.quantile(drawn[0][place] - drawn[1][place], [0.025, 0.975])
        found[name] = {
            "difference": round(float(point[0][place] - point[1][place]), 3),
            "interval": [round(float(low), 3), round(float(high), 3)],
            "seeds_above": int((each[0][place] > each[1][place]).sum()),
        }
    return found


def peak(curves: Curves) -> Peak:
    height, root = smoothed(curves.utility.mean(axis=(0, 1)))
    return Peak(round(float(height), 3), round(float(root), 3), bool(root == ROOTS[-1]))


KINDS = {
    "member": ("k1", "one member of the ensemble"),
    "alone": ("k3", "a model trained alone"),
    "mean": ("k2", "the ensemble's mean"),
    "lower": ("k0", f"mean − {BOUND:g} · deviation"),
}
STYLE = """svg { font: 12px system-ui, sans-serif } .grid { stroke: #e3e1da } .tick { fill: #79828a } text { fill: #5d666f }
.k0 { color: #0b6e63 } .k1 { color: #d0772c } .k2 { color: #4a6fb3 } .k3 { color: #8a5a9e }
.curve { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round }
.proxy { stroke-dasharray: 4 4; stroke-opacity: .7 } .band { fill: currentColor; fill-opacity: .15 }
.top { fill: currentColor }"""
BANDS = ("member", "lower")
"""The curves whose intervals are drawn: four would hide each other."""
NAMED = (1, 2, 4, 8, 16, 32, 64)
"""The n that stand below the axis."""
SIZE = (500, 300)


def figure(curves: Mapping[str, Curves]) -> str:
    """Left: each reward's own score and the utility; right: the utility alone, with its interval and highest point."""
    utility = {kind: one.utility.mean(axis=(0, 1)) for kind, one in curves.items()}
    score = {kind: one.score.mean(axis=(0, 1)) for kind, one in curves.items()}
    bounds = {kind: np.quantile(resampled(curves[kind].utility, 0), [0.025, 0.975], axis=0) for kind in BANDS}
    both = _frame([*score.values(), *utility.values()])
    alone = _frame([*bounds.values(), *utility.values()])
    left, right = [_axes(both)], [_axes(alone)]
    for kind in curves:
        colour, name = KINDS[kind]
        left.append(_curve(both, score[kind], f"curve proxy {colour}", f"{name}: its own score"))
        left.append(_curve(both, utility[kind], f"curve {colour}", f"{name}: utility"))
        if kind in bounds:
            right.append(_band(alone, bounds[kind], colour))
        right.append(_curve(alone, utility[kind], f"curve {colour}", name))
        top = peak(curves[kind])
        at = Markup('<circle class="top {}" cx="{:.1f}" cy="{:.1f}" r="4"><title>highest: {}</title></circle>')
        right.append(at.format(colour, alone.px(top.root), alone.py(top.height), f"{name}, {top.height:.2f}"))
    parts = [
        _text("", 20, 16, "score chosen by (dashed) and hidden utility, in standard deviations"),
        _text("", 530, 16, "hidden utility, with 95% intervals and the smoothed curve's highest point"),
        Markup('<g transform="translate(0 22)">{}</g><g transform="translate(510 22)">{}</g>').format(
            Markup("").join(left), Markup("").join(right)
        ),
    ]
    for number, kind in enumerate(curves):
        x = 46 + number * 230
        parts.append(Markup('<path class="curve {}" d="M{} 340h24"/>').format(KINDS[kind][0], x))
        parts.append(_text("", x + 30, 344, KINDS[kind][1]))
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1010 356" width="1010" height="356" role="img" '
    label = 'aria-label="Over-optimisation by best-of-n"><rect width="1010" height="356" fill="#fff"/>'
    return f"{head}{label}<style>{STYLE}</style>{Markup('').join(parts)}</svg>\n"


def _frame(values: Sequence[NDArray]) -> Frame:
    ticks = nice_ticks(min(0.0, *(float(v.min()) for v in values)), max(float(v.max()) for v in values))
    return Frame(*SIZE, (0.0, float(ROOTS[-1])), (ticks[0], ticks[-1]), bottom=52)


def _axes(frame: Frame) -> Markup:
    ticks = nice_ticks(*frame.y)
    grid = Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    parts = []
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        y = frame.py(tick)
        parts.append(grid.format(frame.left, y, frame.width - frame.right, y))
        parts.append(_text("tick", frame.left - 6, y + 4, text, "end"))
    roots = [tick for tick in nice_ticks(*frame.x) if tick <= frame.x[1]]
    for tick, text in zip(roots, tick_texts(roots), strict=True):
        parts.append(_text("tick", frame.px(tick), frame.height - 36, text, "middle"))
    for n in NAMED:
        parts.append(_text("tick", frame.px(kl_of_best(n) ** 0.5), frame.height - 20, f"n={n}" if n == 1 else str(n), "middle"))  # fmt: skip
    parts.append(_text("tick", frame.width - frame.right, frame.height - 4, "above: √KL in √nats; below: n", "end"))
    return Markup("").join(parts)


def _curve(frame: Frame, values: NDArray, kind: str, name: str) -> Markup:
    path = "M" + "L".join(f"{frame.px(x):.1f} {frame.py(y):.1f}" for x, y in zip(ROOTS, values, strict=True))
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(kind, path, name)


def _band(frame: Frame, bounds: NDArray, colour: str) -> Markup:
    low, high = ([f"{frame.px(x):.1f} {frame.py(y):.1f}" for x, y in zip(ROOTS, side, strict=True)] for side in bounds)
    return Markup('<path class="band {}" d="M{}Z"/>').format(colour, "L".join([*low, *reversed(high)]))


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two seeds, few prompts and answers: does it run?")
    parser.add_argument("--pilot", action="store_true", help="seeds and prompts of those that settings are chosen on")
    parser.add_argument("--folder", type=Path, help="where the parts' results stay; a temporary folder if not given")
    parser.add_argument("--seeds", nargs="+", type=int, help=f"{SEEDS[0]} to {SEEDS[-1]} if not given")
    parser.add_argument("--threads", type=int, help="of training, sampling and scoring; as many as there are cores if not given")  # fmt: skip
    parser.add_argument(
        "--ensemble", choices=["members", "separate"], default="members", help="how the members are made"
    )
    parser.add_argument("--figure", type=Path, help="write the curves there, as SVG")
    given = parser.parse_args()
    prompts, samples = (4, SAMPLES) if given.short else (PROMPTS, SAMPLES)
    seeds = given.seeds or list(PILOT_SEEDS if given.pilot else SEEDS)[: 2 if given.short else None]
    held_out = support_desk.prompts("test")
    asked = held_out[-prompts:] if given.pilot else held_out[:prompts]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        answers = sampled(folder, asked, samples, given.threads)
        per_seed = []
        for seed in seeds:
            per_seed.append(
                rewards(*[scores(folder, seed, way, answers, given.threads) for way in (given.ensemble, "alone")])
            )
    curves = all_curves(per_seed, answers.utilities)
    report(curves, per_seed, seeds)
    if given.figure:
        given.figure.write_text(figure(curves), encoding="utf-8")


def report(curves: Mapping[str, Curves], per_seed: Sequence[Mapping[str, list[NDArray]]], seeds: Sequence[int]) -> None:
    for kind, one in curves.items():
        shown = ", ".join(
            f"{n}: {round(float(u), 2) + 0.0:.2f}" for n, u in zip(COUNTS, one.utility.mean(axis=(0, 1)), strict=True)
        )
        print(f"{kind}: utility by n: {shown}; highest {peak(one)}")
    ties = np.mean([kl_with_ties(row, COUNTS[-1]) for seed in per_seed for row in seed["lower"][0]])
    print(
        f"KL at n = {COUNTS[-1]}: {kl_of_best(COUNTS[-1]):.2f} nats by the formula, {ties:.2f} with equal answers counted once"
    )
    over = {f"lower − {other}": difference(curves, "lower", other) for other in ("member", "alone", "mean")}
    for name, found in over.items():
        print(f"highest point, {name}: {found}")
    ours = over["lower − member"]
    value, baseline = peak(curves["lower"]), peak(curves["member"])
    result = {
        "name": "over-optimisation: highest hidden utility of best-of-n, ensemble's lower bound against one member",
        "value": value.height, "baseline": baseline.height, "ratio": round(value.height / baseline.height, 3),
        **ours, "over_alone": over["lower − alone"], "seeds": list(seeds), "goal": "10 seeds, the interval of the difference in height or in place above 0",
        "ok": len(seeds) >= 10 and max(ours[name]["interval"][0] for name in ours) > 0,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
