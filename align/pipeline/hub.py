"""A model of the Hub is a branch until a commit is known: a run takes the one that it finds first, and stays with
it."""

import re
from dataclasses import replace
from pathlib import Path

from align.errors import ConfigError, ServiceError
from align.pipeline.run import Run, noted, noting

_COMMIT = re.compile("[0-9a-f]{40}")


def with_commit(run: Run, *, look: bool = True) -> Run:
    """The run with the commit of its Hub model as the model's revision, noted in `run.json`.

    Where none is noted and `look` is false, the run as it is. Raises ConfigError for a model that the Hub does not
    have, ServiceError where it cannot be reached and its cache knows no commit.
    """
    model = run.recipe.model
    if Path(model.path).is_dir() or _COMMIT.fullmatch(model.revision or ""):
        return run
    name = f"{model.path}@{model.revision or 'main'}"
    commits = noted(run.folder).get("commits", {})
    commit = commits.get(name) if isinstance(commits, dict) else None
    if commit is None and look:
        commit = find_commit(model.path, model.revision)
        noting(run.folder, commits={**commits, name: commit})
    if commit is None:
        return run
    return replace(run, recipe=run.recipe.model_copy(update={"model": model.model_copy(update={"revision": commit})}))


def find_commit(name: str, revision: str | None) -> str:
    """The commit that `revision` (the default branch where None) of a Hub model is now, or was when it was last
    fetched."""
    from huggingface_hub import errors, hf_hub_download

    try:
        found = Path(hf_hub_download(name, "config.json", revision=revision)).parent.name  # …/snapshots/<commit>/
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ServiceError(
            f"{name!r} is no local folder, and the Hub cannot be reached", where="model.path",
            hint="connect to the network, or give a folder",
        ) from error  # fmt: skip
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.EntryNotFoundError) as error:
        at = f" at {revision!r}" if revision else ""
        raise ConfigError(
            f"there is no local folder and no model on the Hub called {name!r}{at}", where="model.path",
            hint="check the spelling; a private or gated model needs `hf auth login`",
        ) from error  # fmt: skip
    return found
