"""How a process of ours starts Python again: with this project's modules, never with files of the working directory."""

import sys

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""For the environment of such a process: whatever it starts itself (torchrun's workers, vLLM's) does likewise."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command for `python -m module`. Without `-P` a user's `reward.py` there would stand for the package
    `reward`."""
    return [sys.executable, "-P", "-m", module, *arguments]
