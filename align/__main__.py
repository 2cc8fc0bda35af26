"""`python -m align` is `align`, and so is the console script."""

import sys
from pathlib import Path


def main() -> None:
    """All of the command line; Ctrl-C is answered from here on, also while the verbs themselves are imported."""
    from align.cli.interrupt import interruptible

    with interruptible():
        from align.cli.app import main as verbs

        verbs()


if __name__ == "__main__":
    import align

    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(align.__file__).parents[1]:
        del sys.path[0]  # the working directory, whose `reward.py` would hide the package
    main()
