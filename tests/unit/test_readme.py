"""The README is true: its tree names every folder, its links lead somewhere, its make targets exist."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture import PACKAGES, PAGE, with_listing

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_has_every_folder() -> None:
    tree = README.split("```\nalign/cli", 1)[1].split("```", 1)[0]
    told = set(
        re.findall(r"(?:^|  )((?:align|annotation|reward|rollouts)(?:/\w+)*)/? ", f"align/cli{tree}", re.MULTILINE)
    )
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, text=True, capture_output=True)
    if listed.returncode:
        pytest.skip("this is no git checkout, so what belongs to the project is not known")
    folders = {str(Path(name).parent) for name in listed.stdout.split() if name.endswith("__init__.py")} - {"align"}
    assert told == {folder for folder in folders if "/plugin" not in folder}


def test_the_list_of_files_is_today_s() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so what belongs to the project is not known")
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_listing(page), "`python -m tests.architecture` writes it again"


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_a_page_begins_with_a_command(page: Path) -> None:
    """What one can do, and how, before any detail; what is decided and what is generated have none."""
    if page.stem in ("decisions", "cli", "recipe"):
        return
    opening = page.read_text(encoding="utf-8").split("\n## ")[0]
    assert re.search(r"^```\w*\n(align|python|make) ", opening, re.MULTILINE), f"{page.name} begins without a command"
