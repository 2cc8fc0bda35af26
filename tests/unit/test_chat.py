"""`align chat` with a tiny model of random weights; what it says has no sense, but comes piece by piece."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.cli.chat import Printer, newest_policy
from align.errors import ConfigError
from align.report.data import report_data
from align.report.html import render
from tests.fake_run import make_run
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", vocab_words=["bread", "water", "story"])


def said(*arguments: str | Path, typed: str = "") -> str:
    done = CliRunner().invoke(app, ["chat", *map(str, arguments), "--threads", "1", "--max-tokens", "12"], input=typed)
    assert done.exception is None, done.exception
    return str(done.stdout)


def test_a_message_gets_an_answer_and_the_same_one_again(model: Path) -> None:
    first = said(model, "-m", "bread water", "--seed", "3")
    assert first == said(model, "-m", "bread water", "--seed", "3")
    assert first != said(model, "-m", "bread water", "--seed", "4")
    assert first.strip()


def test_lines_are_a_conversation(model: Path) -> None:
    both = said(model, typed="bread\n\nwater\n")
    first = said(model, "-m", "bread")
    assert both.startswith(first)
    second, alone = both.removeprefix(first), said(model, "-m", "water", "--seed", "1")
    assert second.strip() and alone.strip() and second != alone, "the second answer knows the first turn"


def test_text_is_printed_as_its_characters_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    class Bytes:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    class Ids(list[int]):
        def flatten(self) -> "Ids":
            return self

        def tolist(self) -> list[int]:
            return list(self)

    printer = Printer(Bytes(), [0])
    shown: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align.text.decode_answer", lambda _, ids: bytes(ids).decode("utf-8", errors="replace"))
        for ids in ([1, 2, 3], [0x48], [0xC3], [0xBC], [0x1B], [0]):
            printer.put(Ids(ids))
            shown.append(capsys.readouterr().out)
        printer.end()
    assert shown == ["", "H", "", "ü", "\\x1b", ""]
    assert printer.text == "Hü\x1b"


def test_a_runs_folder_means_its_newest_policy(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=2)
    found = report_data(run)["model"]
    assert newest_policy(run) == Path(found["folder"])
    assert (found["round"], found["run"]) == (2, str(run))
    assert f"To try it: <code>align chat {run}</code>" in render(report_data(run))
    assert newest_policy(tmp_path) is None


def test_a_run_that_has_trained_nothing_names_no_model(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1, sft=False, stop_before="1/policy")
    assert report_data(run)["model"] is None
    assert "align chat" not in render(report_data(run))
    empty = make_run(tmp_path / "other", stop_before="0/policy")
    with pytest.raises(ConfigError, match=r"there is no policy in .*/other.* yet; see `align status`"):
        newest_policy(empty)
