"""The list of files in docs/architecture.md: each with the first line of what it says of itself.

`python -m tests.architecture` writes it again.
"""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("align", "annotation", "reward", "rollouts")
BEGIN, END = "<!-- files -->\n", "<!-- end of files -->\n"
COMMENT = re.compile(r"\s*(?://|#|/\*|<!--)\s*(.*?)\s*(?:\*/|-->)?$")


def listing() -> str:
    """A table for each folder: file, and its first line."""
    listed = subprocess.check_output(["git", "ls-files", *PACKAGES], cwd=ROOT, text=True).split()
    folders: dict[str, list[Path]] = {}
    for name in sorted(listed):
        folders.setdefault(str(Path(name).parent), []).append(ROOT / name)
    parts = []
    for folder, files in sorted(folders.items()):
        about = next((first_line(f) for f in files if f.name == "__init__.py"), "")
        parts.append(f"### {folder}\n" + (f"\n{about}\n" if about else ""))
        rows = [f"| {f.name} | {first_line(f)} |" for f in files if f.name != "__init__.py"]
        parts.append("\n".join(["| file | what it is |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def first_line(file: Path) -> str:
    """The first line of a module's docstring, or of another file's comment; empty where it has none."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ")
    else:
        found = COMMENT.match(text.split("\n", 1)[0])
        said = found[1] if found and file.suffix in (".js", ".css", ".yaml", ".txt") else ""
    return said.replace("|", "\\|").replace("<", "&lt;")


def with_listing(page: str) -> str:
    """The page with the list of today."""
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + "\n" + listing() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_listing(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
