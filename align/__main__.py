"""`python -m align` is `align`."""

from align.cli.app import main

main()
