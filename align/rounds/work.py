"""What each stage does: read the input folders, call the package that knows how, write the output folder.

Every function takes a `Job` and a progress callback (done, total), writes into `job.out` and returns a small summary
for the receipt. `WORK` at the end names them for the plan. Those that train in a round stand in
`align.rounds.training`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from align.config.recipe import Annotate, Evaluate, Prompts
from align.config.rollouts import Rollouts
from align.config.training import Sft
from align.dropped import count_reasons
from align.evaluate.compare import SAMPLES
from align.rounds import checking, training
from align.rounds.journal import read_journal
from align.rounds.parts import ancestors_of, checkpoint_of, note_of, prompts_of, write_part
from align.rounds.stage import Job
from align.rounds.training import Summary
from align.rounds.worker import Progress
from align.sampled import TOKENS_FILE, pass_tokens_on
from align.store import checkpoint_id, read_json, read_table, write_json, write_table
from align.types import Candidate, Dropped, Judgement, Preference, Prompt, Task, Thumb, from_table


def prompts(job: Job, progress: Progress) -> Summary:
    """Load, clean and split the prompts."""
    from align.data.prompts import load_prompts

    rows, dropped = load_prompts(Prompts(path=Path(job.tuning["path"]), **job.settings))
    write_part(job, "prompts", Prompt, rows)
    write_part(job, "dropped", Dropped, dropped)
    return {
        "train": sum(p.split == "train" for p in rows),
        "test": sum(p.split == "test" for p in rows),
        "dropped": len(dropped),
    }


def demonstrations(job: Job, progress: Progress) -> Summary:
    """Load the demonstrations, without those whose prompt is held out for evaluation."""
    from align.data.contamination import drop_held_out_demonstrations
    from align.data.demonstrations import load_demonstrations, mixed, write_demonstrations

    test, parts, left_out = prompts_of(job, "test"), [], list[Dropped]()
    read = 0
    for path in (job.tuning["path"], *job.tuning["mix"]):
        rows, dropped = load_demonstrations(Path(path))
        kept, held_out = drop_held_out_demonstrations(rows, test)
        parts.append(kept)
        read += len(kept)
        left_out += dropped + held_out
    kept = mixed(parts[0], list(zip(parts[1:], job.settings.get("mix", []), strict=True)), job.settings.get("seed", 0))
    write_demonstrations(job.out / "demonstrations.parquet", kept)
    write_part(job, "dropped", Dropped, left_out)
    return {"rows": len(kept), "dropped": len(left_out), **_note("demonstration", read, left_out)}


def given_policy(job: Job, progress: Progress) -> Summary:
    """The recipe's model itself is the first policy."""
    from align.train.checkpoint import import_model

    given = job.tuning
    import_model(given["path"], job.out, **_named(given))
    return {"checkpoint": checkpoint_id(job.out), "parent": None}


def sft_policy(job: Job, progress: Progress) -> Summary:
    """Supervised fine-tuning of the recipe's model on its demonstrations."""
    from align.train.adapter import ADAPTER, name_base
    from align.train.checkpoint import import_model
    from align.train.sft import train_sft
    from align.train.world import by_first

    given, base = job.tuning, job.scratch / "base"
    by_first(lambda: import_model(given["path"], base, seed=job.settings["seed"], **_named(given)))
    rows = _demonstrations(job)
    metrics = train_sft(
        base,
        [(row.messages, row.answer) for row in rows],
        Sft(demonstrations=Path(given["demonstrations"]), **job.settings["sft"]),
        seed=job.settings["seed"],
        dtype=given["dtype"],
        report_to=given["report_to"],
        threads=given["threads"],
        out=job.out,
        work=job.scratch,
        progress=progress,
        mask_thinking=job.settings.get("mask_thinking", False),
    )
    name_base(job.out / ADAPTER, given["path"], given.get("revision"))
    return {"checkpoint": checkpoint_id(job.out), "parent": None, **metrics, **note_of("demonstration", metrics)}


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """The recipe's `model` as `import_model` takes it, without what a run begun by an earlier version does not say."""
    names = ("revision", "dtype", "chat_template", "replace_chat_template", "chat_template_kwargs", "date")
    return {name: given[name] for name in names if name in given}


def rollouts(job: Job, progress: Progress) -> Summary:
    """Sample the parent policy's answers to this round's train prompts."""
    from align.data.prompts import prompts_of_round

    config, seed = Rollouts(**job.settings["rollouts"], **job.tuning["how"]), job.settings["seed"]
    drawn = prompts_of_round(prompts_of(job, "train"), round=job.round, count=config.prompts, seed=seed)
    rows, dropped = _sample(job, drawn, config, config, f"rollouts {job.round}", progress)
    write_part(job, "candidates", Candidate, rows)
    write_part(job, "dropped", Dropped, dropped)
    counted = {"prompts": len(drawn), "candidates": len(rows), "dropped": len(dropped), **_lengths(rows)}
    counted |= _note("answer", len(rows), dropped)
    return counted | {"redrawn": sum(c.redrawn for c in rows)} if config.resample else counted


def selection(job: Job, progress: Progress) -> Summary:
    """Choose what people are asked about."""
    from align.rounds.asking import ask, write_suggestions

    candidates = from_table(Candidate, read_table(job.inputs["rollouts"] / "candidates.parquet"))
    extra = {name: {"path": job.tuning[name], "share": share} for name, share in job.settings["shares"].items()}
    annotate = Annotate.model_validate(job.settings["asked"] | extra)
    prompts = [*prompts_of(job, "train"), *prompts_of(job, "test")]
    hide = job.settings.get("hide_thinking", False)
    asked = ask(prompts, candidates, annotate, round=job.round, seed=job.settings["seed"], hide_thinking=hide)
    write_part(job, "tasks", Task, asked.tasks)
    write_part(job, "dropped", Dropped, asked.dropped)
    about = pa.array([candidate for task in asked.tasks for candidate in task.candidates], pa.string())
    pass_tokens_on(job.inputs["rollouts"], job.out, [about])
    write_suggestions(job.out, asked.suggestions)
    # other criteria are other questions, so they must make another output
    hidden = {"hide_thinking": True} if hide else {}
    write_json(job.out / "form.json", {"kind": annotate.kind, "criteria": annotate.criteria, **hidden})
    return {
        "tasks": len(asked.tasks),
        "gold": sum(t.purpose == "gold" for t in asked.tasks),
        "repeats": sum(t.repeat > 0 for t in asked.tasks),
        "suggested": sum(t.suggested is not None for t in asked.tasks),
        "dropped": len(asked.dropped),
        **({"notes": asked.notes} if asked.notes else {}),
    }


def snapshot(job: Job, progress: Progress) -> Summary:
    """Freeze what counts about these tasks, of the part of the journal that the key was made of."""
    tasks = read_table(job.inputs["tasks"] / "tasks.parquet").column("id").to_pylist()
    journal = read_journal(Path(job.tuning["journal"]), tasks, until=job.tuning["until"])
    judgements = journal.judgements(tasks, job.tuning["labelling"])
    write_part(job, "judgements", Judgement, judgements)
    skipped = sum(j.outcome == "skipped" for j in judgements)
    return {
        "labels": len(judgements) - skipped,
        "skipped": skipped,
        "annotators": len({j.annotator for j in judgements}),
    }


def preferences(job: Job, progress: Progress) -> Summary:
    """Compile judgements into preferences, thumbs and edits, and say how far people agreed and can be trusted."""
    from align.rounds.asking import read_suggestions
    from annotation.agreement import summary, sway
    from annotation.compile import compile_labels

    asked = read_table(job.inputs["selection"] / "tasks.parquet")
    said = read_table(job.inputs["snapshot"] / "judgements.parquet")
    compiled = compile_labels(asked, said, model=job.settings["compiler"], sides_drawn=True)
    tables = {name: getattr(compiled, name) for name in ("preferences", "thumbs", "edits", "dropped")}
    for name, table in tables.items():
        write_table(job.out / f"{name}.parquet", table)
    learned = [compiled.preferences["chosen_id"], compiled.preferences["rejected_id"], compiled.thumbs["candidate_id"]]
    pass_tokens_on(job.inputs["selection"], job.out, learned)
    tasks, judgements = from_table(Task, asked), from_table(Judgement, said)
    proposed = {s.task_id: s.outcome for s in read_suggestions(job.inputs["selection"])}
    agreement = {
        **summary(tasks, judgements),
        "compiled": {
            "model": compiled.model,
            "choice": compiled.choice,
            "notes": compiled.notes,
            "annotators": compiled.annotators,
        },
        "conflicts": compiled.conflicts,
        "sway": sway(tasks, judgements, proposed) if proposed else None,
    }
    write_json(job.out / "agreement.json", agreement)
    return {
        **{name: table.num_rows for name, table in tables.items()},
        "compiler": compiled.choice or {"model": compiled.model},
        "notes": compiled.notes,
    }


def given_thumbs(job: Job, progress: Progress) -> Summary:
    """Load thumbs from the recipe's file, without those whose prompt is held out for evaluation."""
    from align.data.contamination import drop_held_out_thumbs
    from align.data.thumbs import load_thumbs

    rows, dropped = load_thumbs(Path(job.tuning["path"]))
    kept, held_out = drop_held_out_thumbs(rows, prompts_of(job, "test"))
    write_part(job, "thumbs", Thumb, kept)
    write_part(job, "dropped", Dropped, dropped + held_out)
    counts = {"thumbs": len(kept), "dropped": len(dropped) + len(held_out)}
    return {**counts, **_note("thumb", len(kept), dropped + held_out)}


def given_preferences(job: Job, progress: Progress) -> Summary:
    """Load preferences from the recipe's file, without those whose prompt is held out for evaluation."""
    from align.data.contamination import drop_held_out_preferences
    from align.data.preferences import load_preferences

    rows, dropped = load_preferences(Path(job.tuning["path"]))
    kept, held_out = drop_held_out_preferences(rows, prompts_of(job, "test"))
    write_part(job, "preferences", Preference, kept)
    write_part(job, "dropped", Dropped, dropped + held_out)
    counts = {"preferences": len(kept), "dropped": len(dropped) + len(held_out)}
    return {**counts, **_note("preference", len(kept), dropped + held_out)}


def evaluation(job: Job, progress: Progress) -> Summary:
    """Sample and score answers to held-out prompts; compare with the first policy and with the parent."""
    from align.data.prompts import held_out_prompts
    from align.evaluate.compare import evaluate_policy
    from reward.functions import FunctionScorer, load_function

    config, seed = Evaluate(**job.settings["evaluate"]), job.settings["seed"]
    engine = Rollouts(**job.settings["engine"], **job.tuning["how"])
    held_out = held_out_prompts(prompts_of(job, "test"), config.prompts)
    # every policy answers with the same seeds, so that comparisons are paired where they can be
    rows, dropped = _sample(job, held_out, config, engine, "evaluation", progress, keep_all=True)
    write_part(job, "dropped", Dropped, dropped)
    shown = _demonstrations(job)
    result = evaluate_policy(
        held_out,
        rows,
        score=FunctionScorer(load_function(job.tuning["judge"], Path())).score if job.tuning["judge"] else None,
        tie_width=job.settings["tie_width"] or 0.0,
        seed=seed,
        out=job.out,
        first=job.inputs.get("first"),
        parent=job.inputs.get("parent"),
        demonstrations=[(row.messages, row.answer) for row in shown],
    )
    return {"checkpoint": checkpoint_of(job.inputs["policy"]), **result}


def blind(job: Job, progress: Progress) -> Summary:
    """Choose the held-out prompts on which people compare the new policy with the first one."""
    from annotation.tasks import TIED, blind_tasks, shortfall

    new, old = (from_table(Candidate, read_table(job.inputs[name] / SAMPLES)) for name in ("new", "first"))
    tasks, same = blind_tasks(prompts_of(job, "test"), new, old, round=job.round, **job.settings)
    write_part(job, "tasks", Task, tasks)
    write_json(job.out / "same.json", same)
    fewer = shortfall(len(tasks), job.settings["count"], "blind comparisons", len(tasks) + len(same), {TIED: len(same)})
    notes = {"notes": [f"{fewer}; raise evaluate.prompts or prompts.test_share"]} if fewer else {}
    return {"tasks": len(tasks), "same": len(same), **notes}


def blind_result(job: Job, progress: Progress) -> Summary:
    """How often people preferred the new policy's answer."""
    from align.evaluate.blind import blind_win_rate

    new = read_table(job.inputs["new"] / SAMPLES).column("id").to_pylist()
    tasks = from_table(Task, read_table(job.inputs["blind"] / "tasks.parquet"))
    judgements = from_table(Judgement, read_table(job.inputs["snapshot"] / "judgements.parquet"))
    same = read_json(job.inputs["blind"] / "same.json")
    result = blind_win_rate(tasks, judgements, set(new), same, seed=job.settings["seed"])
    write_json(job.out / "result.json", {"win_rate_vs_sft": result})
    return {"win_rate_vs_sft": result}


def _demonstrations(job: Job) -> list[Any]:
    from align.data.demonstrations import read_demonstrations

    folder = job.inputs.get("demonstrations")
    return read_demonstrations(folder / "demonstrations.parquet") if folder is not None else []


def _sample(
    job: Job,
    rows: list[Prompt],
    sampling: Rollouts | Evaluate,
    engine: Rollouts,
    purpose: str,
    progress: Progress,
    *,
    keep_all: bool = False,
) -> tuple[list[Candidate], list[Dropped]]:
    from rollouts.mixture import Policy
    from rollouts.sample import sample_answers

    others = {name: job.inputs[name] for name in ("parent", "sft") if name in job.inputs and not keep_all}
    return sample_answers(
        rows,
        job.inputs["policy"],
        sampling,
        engine,
        purpose=purpose,
        seed=job.settings["seed"],
        known_id=checkpoint_of(job.inputs["policy"]),
        policies={name: Policy(folder, checkpoint_of(folder)) for name, folder in others.items()},
        tokens=None if keep_all else job.out / TOKENS_FILE,
        dtype=job.settings["dtype"],
        threads=job.tuning["threads"],
        ancestors=ancestors_of(job.inputs["policy"]),
        keep_all=keep_all,
        out=job.scratch,
        progress=progress,
    )


def _note(what: str, kept: int, dropped: list[Dropped]) -> Summary:
    return note_of(what, {"rows": kept, "dropped": count_reasons(dropped)})


def _lengths(rows: list[Candidate]) -> Summary:
    if not rows:
        return {}
    return {
        "mean_tokens": sum(c.tokens for c in rows) / len(rows),
        "truncated": sum(c.finish == "length" for c in rows) / len(rows),
    }


WORK: dict[str, Callable[[Job, Progress], Summary]] = {
    f.__name__: f
    for f in (prompts, demonstrations, given_policy, sft_policy, rollouts, selection, snapshot, preferences)
    + (given_preferences, given_thumbs, evaluation, blind, blind_result)
    + (training.dpo_policy, training.kto_policy, training.reward_model, checking.reward_check)
    + (training.ppo_policy, training.rloo_policy, training.grpo_policy, training.best_of_n_policy)
}
