"""The README is true: its tree names every file, its links lead somewhere, its make targets exist."""

import re
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("align", "annotation", "reward", "rollouts", "recipes")
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_has_one_line_for_every_file() -> None:
    tree = README.split("align/\n", 1)[1].split("```", 1)[0]
    folder, told = "align", set()
    for line in f"align/\n{tree}".splitlines():
        if re.fullmatch(r"[\w/-]+/", line):
            folder = line.rstrip("/")
        elif line.startswith("  "):
            told.add(f"{folder}/{line.split()[0]}")
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, text=True, capture_output=True)
    if listed.returncode:
        pytest.skip("this is no git checkout, so what belongs to the project is not known")
    files = {f for f in listed.stdout.split() if not f.endswith("__init__.py")} - {"align/__main__.py"}
    assert told == files


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) <= targets
