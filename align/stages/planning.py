"""What the families of stages plan with: the recipe, the ids of outside files, and what a result does not depend on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.config.recipe import Recipe
from align.errors import ConfigError
from align.pipeline.fingerprint import Fingerprints
from align.pipeline.stage import Ref
from align.stages.names import LABELS


@dataclass(frozen=True, slots=True)
class Planning:
    """A recipe on its way to a plan."""

    recipe: Recipe
    fingerprints: Fingerprints

    @property
    def asks(self) -> bool:
        """Whether each round asks annotators about answers to train on."""
        return self.recipe.annotate is not None and self.recipe.learns_from is not None

    @property
    def engine(self) -> dict[str, Any]:
        """What every stage with a model takes and its result does not depend on."""
        return {"threads": self.recipe.threads, "dtype": self.recipe.model.dtype}

    @property
    def training(self) -> dict[str, Any]:
        """What every training takes and its result does not depend on."""
        recipe = self.recipe
        more = {"report_to": recipe.report_to, "nproc": recipe.nproc, "accelerate": recipe.accelerate}
        return {**self.engine, **more}

    def hidden(self, what: Literal["loss", "annotators"]) -> dict[str, bool]:
        """Whether thoughts are hidden from the loss or from annotators, as a setting that is there where they are."""
        name = {"loss": "mask_thinking", "annotators": "hide_thinking"}[what]
        return {name: True} if what in self.recipe.model.hide_thinking else {}

    def file(self, path: Path, where: str) -> str:
        """The id of an outside file that the recipe's key `where` names. Raises ConfigError where there is none."""
        if not path.is_file():
            makers = (p for p in (path.parent.parent / "world.py", path.parent / "world.py") if p.is_file())
            maker = next(makers, None)
            way_out = (
                f"make it with `python {maker}`"
                if maker
                else "check the path; relative ones start at the recipe's folder"
            )
            raise ConfigError(f"there is no file {path}", where=where, hint=way_out)
        return self.fingerprints.of(path)


def labels_up_to(number: int, replay: float) -> dict[str, Ref]:
    """What was compiled in this round and, where some of them are trained on again, in earlier ones."""
    earlier = range(1, number) if replay > 0 else ()
    return {"preferences": Ref(number, LABELS)} | {f"earlier_{n:03d}": Ref(n, LABELS) for n in earlier}
