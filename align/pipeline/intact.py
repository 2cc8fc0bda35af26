"""Published files against their receipts: what was changed since is found before anything is made from it."""

from collections.abc import Iterable
from pathlib import Path

from align.errors import DataError
from align.pipeline.fingerprint import PRINTS, Fingerprints
from align.pipeline.receipts import Receipt, again, current, pointed_key, pointers, stage_folder

WEIGHTS = (".safetensors",)
"""Too large to be read through by a command that only looks at a run."""


def require_whole(run: Path, receipts: Iterable[Receipt], *, known: bool = True, looking: bool = False) -> None:
    """Raises DataError where a file of these stages is missing or not what was published.

    A file whose size and time of change are those of the last look is taken for the same; `known=False` reads all.
    `looking` is for commands that only look: the models' own weights are left out, and nothing is written down.
    """
    prints = Fingerprints(run / PRINTS)
    for receipt in receipts:
        folder = stage_folder(run, receipt.ref) / receipt.key
        for name, identity in receipt.files.items():
            path = folder / name
            if looking and path.name.endswith(WEIGHTS):
                continue
            if not path.is_file():
                raise DataError(f"{path.name} of {receipt.ref} is missing", where=str(path), hint=again(receipt.ref))
            if prints.of(path, known=known) != identity:
                what = f"{path.name} of {receipt.ref} is not what was published"
                raise DataError(what, where=str(path), hint=again(receipt.ref))
    if not looking:
        prints.save()


def require_readable(run: Path) -> None:
    """`require_whole` for all that a run's pointers name, but for the weights: for commands that only look.

    Raises DataError also for a pointer that holds no key, and where the folder that it names has no receipt.
    """
    found = []
    for ref, pointer in pointers(run):
        key = pointed_key(pointer.parent)
        if key is not None and not (pointer.parent / key).exists():
            continue  # it was removed by hand
        receipt = current(run, ref)
        if receipt is None:
            what = f"the pointer of {ref} names nothing that was published"
            raise DataError(what, where=str(pointer), hint="`align run RECIPE` mends it")
        found.append(receipt)
    require_whole(run, found, looking=True)


def remember(run: Path, receipt: Receipt) -> None:
    """Note sizes and times of files that have just been published, so that nobody has to read them for
    `require_whole`."""
    prints = Fingerprints(run / PRINTS)
    folder = stage_folder(run, receipt.ref) / receipt.key
    for name, identity in receipt.files.items():
        prints.note(folder / name, identity)
    prints.save()
