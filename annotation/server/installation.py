"""The environment of Argilla's server: its pinned libraries are too old to share one with training."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from align.errors import ServiceError
from annotation.server.files import data_folder, locked, make_private_folder

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
COMPLETE = ".complete"
"""Written last into a finished environment; one without it is thrown away and made again."""
INSTALL_TIMEOUT = 1800.0
NEEDED_BYTES = 900 * 2**20

Say = Callable[[str], None]


def environment() -> Path:
    """Where the environment is or would be: `$ALIGN_SERVER_ENV`, else a folder named after what is to be in it."""
    given = os.environ.get("ALIGN_SERVER_ENV")
    if given:
        return Path(given).absolute()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = blake2b(CONSTRAINTS.read_bytes() + version.encode(), digest_size=6).hexdigest()
    return data_folder() / f"argilla-env-{name}"


def is_installed(folder: Path) -> bool:
    """A complete environment of ours, or one that somebody else made (`$ALIGN_SERVER_ENV`) and that has the right
    server."""
    if os.environ.get("ALIGN_SERVER_ENV"):
        return python_of(folder).exists() and any(
            folder.glob(f"lib/python*/site-packages/argilla_server-{argilla_version()}.dist-info")
        )
    return (folder / COMPLETE).exists()


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def argilla_version() -> str:
    """The pinned version of Argilla's server."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith("argilla-server=="))


def install(*, uv: bool = False, say: Say | None = None) -> Path:
    """Make the environment unless it is there; returns its folder. About a minute and 600 MB, from the package index.

    With `uv`, by the `uv` program instead of venv and pip. `say` gets a line for people before each slow step.
    Raises ServiceError where the package index, the disk or `uv` is not to be had.
    """
    folder = environment()
    if is_installed(folder):
        return folder
    if os.environ.get("ALIGN_SERVER_ENV"):
        raise ServiceError(
            f"there is no environment with argilla-server {argilla_version()}",
            where=f"ALIGN_SERVER_ENV={folder}",
            hint="unset the variable to have one made, or point it at one that has it",
        )
    make_private_folder(folder.parent)
    with locked(folder.with_suffix(".lock"), timeout=INSTALL_TIMEOUT, what="an installation"):
        if not is_installed(folder):
            _build(folder, uv, say or (lambda line: None))
    return folder


def _build(folder: Path, uv: bool, say: Say) -> None:
    if shutil.disk_usage(folder.parent).free < NEEDED_BYTES:
        raise ServiceError(
            f"the disk has less than {NEEDED_BYTES >> 20} MB free",
            where=str(folder.parent),
            hint="free some, or set XDG_DATA_HOME to another disk",
        )
    if folder.exists():
        say(f"removing an unfinished environment: {folder}")
        shutil.rmtree(folder)
    say(f"making Argilla's environment in {folder}: about a minute and 600 MB")
    python, listed = str(python_of(folder)), ["--no-deps", "--requirement", str(CONSTRAINTS)]
    if uv:
        program = shutil.which("uv")
        if program is None:
            raise ServiceError("there is no program `uv` on the path", hint="install uv, or leave out --uv")
        steps = [
            [program, "venv", "--python", sys.executable, str(folder)],
            [program, "pip", "install", "--python", python, *listed],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", str(folder)],
            [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", *listed],
        ]
    for step in steps:
        _run(step, folder.with_suffix(".log"))
    _run([python, "-c", "import argilla_server.settings"], folder.with_suffix(".log"))
    (folder / COMPLETE).write_text(argilla_version() + "\n", encoding="utf-8")


def _run(command: list[str], log: Path) -> None:
    surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    with log.open("ab") as file:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=surroundings, check=False
        )
    if done.returncode:
        raise ServiceError(
            f"making Argilla's environment failed: `{' '.join(command[:4])} …` ended with {done.returncode}: {reason(log)}",
            where=str(log),
            hint="read that file; without a connection to a package index nothing can be installed",
        )


def reason(log: Path) -> str:
    """Why the program that wrote `log` ended, for messages: its last exception, else the last line that says
    something."""
    if not log.exists():
        return "it said nothing"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR:? +)?[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or ["it said nothing"])[-1]
