"""Answers: sample them from a model, and compare them with another model's."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from align.api.files import load_candidates
from align.api.given import (
    Compute,
    Evaluation,
    ModelLike,
    Samples,
    Workspace,
    checkpoint_in,
    estimate,
    opened,
)
from align.api.scorers import ScorerLike, load_scorer, scorer_like
from align.config.recipe import Evaluate, FunctionJudge
from align.config.rollouts import Engine, Rollouts, SamplingConfig
from align.errors import ConfigError
from align.pipeline.output_dir import OutputDir
from align.progress import Progress
from align.sampled import TOKENS_FILE
from align.tool_calls import beside
from align.types import Prompt, as_dict
from reward.scorer import Scorer

_DEFAULT = Compute()


def sample(
    model: ModelLike | Mapping[str, ModelLike],
    prompts: Sequence[Prompt],
    config: Rollouts | Evaluate | None = None,
    *,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Samples:
    """Sample `config.samples` answers of `model` to each of `prompts`, in their order.

    With `Rollouts` (the default), `config` also sets the engine, and empty and repeated answers are dropped, because
    people should not be asked about them. With `Evaluate`, every answer is kept, because a fair comparison needs them.
    `config.prompts` has no effect here; it sets how many prompts a recipe draws. If a `mixture` uses `parent` or `sft`,
    `model` is a mapping of these names and `current` to models.

    The folder gets `candidates.jsonl`, `dropped.jsonl` and `tokens.parquet` (the sampled tokens of each answer, with
    log-probabilities if `config.logprobs` is set). After a kill, the same call continues with the missing shards.
    Raises ConfigError if the settings do not fit the model or its context length.
    """
    from align.store import write_rows
    from rollouts.mixture import require_named

    config = config or Rollouts()
    models = dict(model) if isinstance(model, Mapping) else {"current": model}
    if "current" not in models:
        raise ConfigError(f"there is no `current` among {', '.join(models)}", where="model", hint="name that one too")
    if isinstance(config, Rollouts):
        require_named(config, set(models), "model.")
    with opened(workspace) as place:
        found = _drawn(place, models, prompts, config, compute, workspace.progress)
        messages = {prompt.id: prompt.messages for prompt in prompts}
        rows = ({**as_dict(row), **beside(messages[row.prompt_id])} for row in found.candidates)
        write_rows(place.out / "candidates.jsonl", rows)
        write_rows(place.out / "dropped.jsonl", map(as_dict, found.dropped))
    return found


def _drawn(
    place: OutputDir,
    models: Mapping[str, ModelLike],
    prompts: Sequence[Prompt],
    config: Rollouts | Evaluate,
    compute: Compute,
    progress: Progress | None,
) -> Samples:
    """The models' answers; for a comparison all of them are kept."""
    folders = {name: checkpoint_in(place, model, compute) for name, model in models.items()}
    engine = config if isinstance(config, Engine) else compute.engine or Engine()
    keep_all = isinstance(config, Evaluate)
    return draw(place, folders, prompts, config, engine, compute=compute, keep_all=keep_all, progress=progress)


def draw(
    place: OutputDir,
    folders: Mapping[str, Path],
    prompts: Sequence[Prompt],
    config: SamplingConfig | Evaluate,
    engine: Engine,
    *,
    compute: Compute,
    keep_all: bool,
    progress: Progress | None,
) -> Samples:
    """Answers of the checkpoints `folders` (`current`, and those of a mixture) to `prompts`. The shards are in the work
    folder of `place`."""
    from align.store import checkpoint_id
    from rollouts.mixture import Policy, sources_of
    from rollouts.sample import sample_candidates

    policies = {name: Policy(folder, checkpoint_id(folder)) for name, folder in folders.items()}
    mixed = config if isinstance(config, SamplingConfig) else None
    rows, dropped = sample_candidates(
        prompts,
        policies["current"].path,
        policies["current"].id,
        sampling=config,
        samples=config.samples,
        engine=engine,
        dtype=compute.dtype,
        max_prompt_tokens=engine.max_prompt_tokens,
        shard=engine.shard,
        seed=compute.seed,
        threads=compute.threads,
        sources=sources_of(mixed, policies) if mixed else (),
        max_resamples=mixed.max_resamples if mixed else 0,
        tokens=place.out / TOKENS_FILE,
        logprobs=bool(mixed and mixed.logprobs),
        keep_all=keep_all,
        out=place.work,
        progress=progress,
    )
    return Samples(list(prompts), rows, dropped)


def evaluate(
    ours: Samples | ModelLike,
    theirs: Samples | ModelLike | None = None,
    *,
    scorer: ScorerLike | FunctionJudge | None,
    prompts: Sequence[Prompt] = (),
    config: Evaluate | None = None,
    tie_width: float = 0.0,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Evaluation:
    """Score a model's answers with `scorer`, and compare them with another model's answers to the same prompts. The 95%
    intervals resample whole prompts.

    `ours` and `theirs` are answers (from `sample` with `Evaluate`, or a `.jsonl` or `.parquet` file of them), or
    models. Models answer all of `prompts` with the settings in `config` and the same seeds, those of
    `compute.seeded("evaluation")`. Scores that differ by less than `tie_width` are a tie; a recipe's `evaluate.judge`,
    given as the `scorer`, has its own width. An answer without a score is counted as `unscored`, never as a tie.
    Without a `scorer` only lengths are measured.

    The folder gets `result.json` and `samples.parquet`. Raises DataError if the two share no prompt or nothing could be
    scored, and ConfigError for models without prompts or prompts without a model.
    """
    both = [given for given in (ours, theirs) if given is not None]
    models = [given for given in both if not _is_answers(given)]
    if bool(models) != bool(prompts):
        what = f"{models[0]} is a model, and there are no prompts" if models else "there is no model to answer prompts"
        raise ConfigError(what, where="prompts", hint="models answer prompts; answers have theirs")
    if config is not None and not models:
        raise ConfigError("there is no model to answer as it says", where="config", hint="leave it out")
    if isinstance(scorer, FunctionJudge):
        tie_width, scorer = scorer.tie_width, load_scorer(scorer)
    judged = None if scorer is None else scorer_like(scorer)
    with opened(workspace) as place:
        read = [_answers(place, given, prompts, config or Evaluate(), compute, workspace.progress) for given in both]
        result = compare_answers(place, read, judged, tie_width=tie_width, seed=compute.seed)
    win_rate, mean_score = (estimate(result.get(name)) for name in ("win_rate", "mean_score"))
    return Evaluation(Path(workspace.out), read[0], win_rate, mean_score, result)


def _is_answers(given: object) -> bool:
    """Whether `given` is answers, or a file of answers."""
    return isinstance(given, Samples) or (isinstance(given, str | Path) and Path(given).is_file())


def _answers(
    place: OutputDir,
    given: Any,
    prompts: Sequence[Prompt],
    config: Evaluate,
    compute: Compute,
    progress: Progress | None,
) -> Samples:
    if isinstance(given, Samples):
        return given
    if _is_answers(given):
        return load_candidates(given)
    return _drawn(place, {"current": given}, prompts, config, compute.seeded("evaluation"), progress)


def compare_answers(
    place: OutputDir, answers: Sequence[Samples], scorer: Scorer | None, *, tie_width: float, seed: int
) -> dict[str, Any]:
    """Write the scores of the first answers, and their win rate over the second ones if given, to `place.out`; return
    the content of `result.json`."""
    from align.evaluation.compare import RESULT, at_equal_length, evaluate_policy
    from align.store import write_json

    measure = partial(evaluate_policy, score=None if scorer is None else scorer.score, tie_width=tie_width, seed=seed)
    ours, *others = answers
    first = None
    for theirs in others:
        first = place.work / "against"
        measure(theirs.prompts, theirs.candidates, out=first)
    result = measure(ours.prompts, ours.candidates, out=place.out, first=first)
    # there is no SFT and no parent here, only the others
    shown = {name.removesuffix("_vs_sft"): value for name, value in result.items() if value is not None}
    if first is not None and scorer is not None:
        shown["length_controlled_win_rate"] = at_equal_length(place.out, first, tie_width=tie_width)
    write_json(place.out / RESULT, shown)
    return shown
