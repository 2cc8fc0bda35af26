"""`python -m align` is `align`."""

import sys
from pathlib import Path

import align

if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(align.__file__).parents[1]:
    del sys.path[0]  # the working directory, whose `reward.py` would hide the package

from align.cli.app import main

main()
