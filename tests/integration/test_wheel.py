"""What a user installs is the wheel: it has every file that a run needs, and needs nothing of the checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.loop import make_loop

ROOT = Path(__file__).parents[2]
PACKAGES = ("align", "annotation", "reward", "rollouts", "recipes")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True)
    if listed.returncode:
        pytest.skip("this is no git checkout, so what belongs to the project is not known")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows, with a world that `make quickstart` would have made beside it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "recipes" / "support-desk" / "data").mkdir()
    (source / "recipes" / "support-desk" / "data" / "prompts.jsonl").write_text("{}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)], check=True
    )
    (made,) = out.glob("*.whl")
    return made


def clean_environment(folder: Path) -> dict[str, str]:
    """No way to the checkout, and a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "XDG"))}
    return kept | {"HOME": str(folder), "XDG_DATA_HOME": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")}


def run(program: Path, *arguments: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(program), *map(str, arguments)], cwd=cwd, env=clean_environment(cwd), text=True, capture_output=True
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_it_has_the_files_of_the_project_and_no_others(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {name for name in tracked() if name.startswith(tuple(f"{p}/" for p in PACKAGES))}
    assert inside == {f"align/{name}" if name.startswith("recipes/") else name for name in wanted}


def test_alone_it_starts_and_gives_its_recipes(wheel: Path, tmp_path: Path) -> None:
    """Beside the packages that it needs, in a folder whose files have our packages' names."""
    venv, home = tmp_path / "venv", tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    align = venv / "bin" / "align"
    align.write_text(f"#!{venv / 'bin' / 'python'}\nfrom align.__main__ import main\n\nmain()\n")
    align.chmod(0o755)
    home.mkdir()
    (home / "reward.py").write_text("raise SystemExit('the wrong reward')\n")
    where = run(venv / "bin" / "python", "-Pc", "import align; print(align.__file__)", cwd=home)
    assert where.strip() == str(site / "align" / "__init__.py")
    run(align, "init", "own-model", cwd=home)
    assert {p.name for p in (home / "own-model").iterdir()} == {
        p.name for p in (ROOT / "recipes" / "own-model").iterdir() if p.name != "__pycache__"
    }
    make_loop(home / "loop", home / "server")
    assert "1/policy" in run(align, "run", "loop", "--dry-run", cwd=home)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_in_a_bare_environment_pip_install_and_a_run(wheel: Path, tmp_path: Path) -> None:
    """What README tells a user to do, word for word, with an environment and a server's environment of its own."""
    venv, home = tmp_path / "venv", tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True)
    align = venv / "bin" / "align"
    run(align, "init", "own-model", cwd=home)
    run(align, "server", "install", cwd=home)
    make_loop(home / "loop", home / "server")
    run(align, "server", "start", "--home", home / "server", cwd=home)
    try:
        run(align, "run", "loop", cwd=home)
    finally:
        run(align, "server", "stop", "--home", home / "server", cwd=home)
    assert (home / "runs" / "loop" / "report.html").is_file()
