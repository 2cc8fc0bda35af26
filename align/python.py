"""How a process of ours starts Python again: with this project's modules, never with files of the working directory."""

import atexit
import gc
import sys
from importlib import import_module

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""For the environment of such a process: whatever it starts itself (torchrun's workers, vLLM's) does likewise."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command for `python -m module`. Without `-P` a user's `reward.py` there would stand for the package
    `reward`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def import_for_good(*modules: str) -> None:
    """Import what this process needs until it ends, and keep the garbage collector away from it.

    accelerate and transformers collect garbage several times in every training. With torch and TRL in memory each time
    takes 0.3 s, which was half of a short training; and the imports themselves are a sixth faster without it. Not for a
    process that is the user's own: what is unreachable by now stays in memory.
    """
    gc.disable()
    try:
        for module in modules:
            import_module(module)
        gc.collect()
        gc.freeze()
        atexit.register(gc.unfreeze)  # else libraries find fault with what is left at the end
    finally:
        gc.enable()
