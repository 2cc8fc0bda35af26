"""`align init` and `align run`."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from align.api.runs import RunResult
    from align.pipeline.run import Run

RUNS = typer.Option(Path("runs"), "--runs", help="The folder that contains the runs.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")


def init(
    recipe: str = typer.Argument("own-model", help="The recipe to copy."),
    folder: Path = typer.Argument(None, help="The new folder. Default: a folder with the recipe's name."),
    as_json: bool = JSON,
) -> None:
    """Copy a recipe to a new folder, where you can edit it."""
    from align.cli.display import print_json
    from align.cli.recipes import copy_recipe

    target = copy_recipe(recipe, folder or Path(recipe))
    if as_json:
        print_json({"recipe": str(target / "recipe.yaml")})
    else:
        typer.echo(f"{target}: read its README.md, then `align run {target / 'recipe.yaml'}`")


def run(
    recipe: Path = typer.Argument(..., help="A recipe.yaml, or the folder that contains it."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe, for example rounds=1 dpo.beta=0.2"),
    runs: Path = RUNS,
    wait: bool = typer.Option(False, "--wait", help="Wait until labelling is complete, then continue."),
    start_from: str = typer.Option(
        None, "--from", help="Run this stage and all later ones again, for example `policy` or `2/policy`."
    ),
    verify: bool = typer.Option(False, "--verify", help="Check all published files against their receipts."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only print the stages: which are done and which would run."),
    as_json: bool = JSON,
) -> None:
    """Run a recipe, or continue its run.

    Stages that are done are not repeated. Exits with 75 while it waits for labels: run the same command again when
    labelling is complete. Exits with 76 if a stage finds that the run must not continue.
    """
    from align.api.runs import run as run_recipe
    from align.cli.display import say, telling
    from align.config.load import load_recipe
    from align.errors import EXIT_BLOCKED, EXIT_WAITING, ConfigError
    from align.pipeline.run import planned_run

    loaded = load_recipe(recipe, overrides or [])
    if dry_run and wait:
        raise ConfigError("--dry-run does nothing that --wait could wait for", hint="leave one of the two out")
    if dry_run and verify:
        raise ConfigError("--dry-run reads no published files to --verify", hint="leave one of the two out")
    if dry_run:
        _print_plan(planned_run(loaded, runs), start_from, as_json)
        return
    with telling(quiet=as_json) as tell:
        result = run_recipe(loaded, runs=runs, wait=wait, start_from=start_from, verify=verify, tell=tell)
    _print_result(result, as_json)
    if result.state == "waiting":
        typer.echo(f"waiting for labels: {result.reason}", err=True)
        typer.echo("run the same command again when labelling is complete (or add `--wait`)", err=True)
        raise typer.Exit(EXIT_WAITING)
    if result.state == "blocked":
        say(f"{result.stage} stops the run: {result.reason}", err=True)
        raise typer.Exit(EXIT_BLOCKED)


def _print_result(result: "RunResult", as_json: bool) -> None:
    from align.cli.display import print_json
    from align.report.data import report_data
    from align.report.table import summary_lines

    data = report_data(result.folder)
    if as_json:
        print_json({**data, "report": str(result.report)})
        return
    if result.state == "finished" and not result.ran:
        typer.echo("nothing to do: the run is finished")
    for line in summary_lines(data):
        typer.echo(line)
    typer.echo(f"report: {result.report}")
    if data["model"] is not None:
        typer.echo(f"model: {data['model']['folder']}")
        typer.echo(f"try it: align chat {data['model']['run']}")


def _print_plan(run: "Run", start_from: str | None, as_json: bool) -> None:
    from align.cli.display import print_json, print_table
    from align.pipeline.runner import find_stage
    from align.pipeline.stage import Wait
    from align.stages.rounds import plan_states

    states = plan_states(run)
    first = len(states) if start_from is None else find_stage([step for step, _ in states], start_from)
    shown = [
        (str(step.ref), "to run" if index >= first and not isinstance(step, Wait) else state)
        for index, (step, state) in enumerate(states)
    ]
    if as_json:
        print_json([{"stage": ref, "state": state} for ref, state in shown])
        return
    print_table([["stage", "state"], *([ref, state] for ref, state in shown)])
