"""What the labelling page makes of texts: markdown, places, widths, directions, differences."""

import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page

import annotation
from annotation.form import Form
from tests.browser.conftest import OpenPage
from tests.browser.session_page import kind_task, show

MARKDOWN = """# Title

Use **bold**, *italic*, **bold with *italic* in it**, ~~gone~~, 2*3*4, a_b_c, \\*stars\\* and `code`:

1. one
   and more of one
2. two
   - inner **x**

> quoted
> > twice

| name | price |
|:-----|------:|
| lamp | `4` | too much
| only |

---

```python
x = 1 < 2

y = "**no**"
```
~~~
plain
```
~~~
```not a fence```
[docs](https://a.test/b)"""


def test_markdown_is_shown_as_people_expect(watched: OpenPage) -> None:
    opened, frame = show(watched, kind_task("t", "pair", [MARKDOWN, ""]))
    answer = frame.locator(".answer.a .text")
    assert answer.locator("h4").inner_text() == "Title"
    assert answer.locator("em").all_inner_texts() == ["italic", "italic"]
    assert answer.locator("strong").all_inner_texts() == ["bold", "bold with italic in it", "x"]
    assert answer.locator("s").all_inner_texts() == ["gone"]
    assert "2*3*4, a_b_c, *stars* and code:" in answer.inner_text()
    items = [item.inner_text().split() for item in answer.locator(".item").all()]
    assert items == [["1.", "one", "and", "more", "of", "one"], ["2.", "two"], ["•", "inner", "x"]]
    inner, outer = (answer.locator(".item").nth(n).bounding_box() for n in (2, 1))
    assert inner and outer and inner["x"] > outer["x"] + 10
    assert answer.locator("blockquote blockquote").inner_text() == "twice"
    rows = [row.locator("th, td").all_inner_texts() for row in answer.locator("tr").all()]
    assert rows == [["name", "price"], ["lamp", "4 | too much"], ["only", ""]]
    assert answer.locator("hr").count() == 1
    assert answer.locator("pre").all_inner_texts() == ['x = 1 < 2\n\ny = "**no**"', "plain\n```"]
    assert answer.locator(".language").all_inner_texts() == ["python"]
    assert answer.locator("a").count() == 0 and "docs (https://a.test/b)" in answer.inner_text()
    assert frame.locator(".answer.b .text").inner_text() == "(empty)"
    opened.check()


def test_thoughts_are_folded_and_not_compared(watched: OpenPage) -> None:
    thoughtful = "<think>\nhm, **why**\n</think>\n\nYes, it is."
    opened, frame = show(watched, kind_task("t", "pair", [thoughtful, "<think>\ncut off"]))
    assert frame.locator(".answer.a .said").inner_text() == "Yes, it is."
    assert frame.locator(".answer.b .said").inner_text() == "(empty)"
    thoughts = frame.locator(".answer.a .thoughts")
    assert thoughts.locator(".text").is_visible() is False
    thoughts.locator("summary").click()
    assert thoughts.locator(".text").inner_text() == "hm, why"
    frame.locator("button.differences").click()
    assert frame.locator(".answer.a .said").inner_text() == "Yes, it is."
    assert thoughts.locator(".text").inner_text() == "hm, why"
    opened.check()


@pytest.mark.parametrize(
    ("width", "answers", "columns"),
    [(1280, 2, 2), (820, 2, 2), (768, 2, 2), (600, 2, 1), (390, 2, 1), (1280, 1, 1), (1280, 3, 3), (820, 3, 2)]
    + [(1280, 4, 2), (768, 4, 2), (1600, 4, 4), (390, 4, 1)],
)
def test_answers_stand_beside_each_other_where_there_is_room(
    watched: OpenPage, width: int, answers: int, columns: int
) -> None:
    """In rows of equal height, as many beside each other as fit; and the frame cuts nothing off."""
    kind = {1: "single", 2: "pair"}.get(answers, "rank")
    texts = ["short", "much longer " * 60, "x" * 200, "```\n" + "code " * 80 + "\n```"][:answers]
    opened, frame = show(watched, kind_task("t", kind, texts), width=width)
    boxes = [box for card in frame.locator(".answer").all() if (box := card.bounding_box())]
    assert len(boxes) == answers
    for start in range(0, answers, columns):
        row = boxes[start : start + columns]
        assert len({(b["y"], b["height"], round(b["width"])) for b in row}) == 1
        assert all(left["x"] + left["width"] < right["x"] for left, right in pairwise(row))
    assert len({b["y"] for b in boxes}) == -(-answers // columns)
    whole, last = opened.page.locator("iframe").bounding_box(), boxes[-1]
    assert whole and last["y"] + last["height"] <= whole["y"] + whole["height"], "the frame cuts the page off"
    assert frame.locator("#task").evaluate("node => node.scrollWidth <= node.clientWidth"), "something sticks out"


EDGES = "node => { const r = document.createRange(); r.selectNodeContents(node); const a = r.getBoundingClientRect(), b = node.getBoundingClientRect(); return [a.left - b.left, b.right - a.right]; }"


def test_right_to_left_text_starts_at_the_right(watched: OpenPage) -> None:
    _, frame = show(watched, kind_task("t", "pair", ["مرحبا بكم", "hello"]))
    right, left = (frame.locator(f".answer.{name} p").evaluate(EDGES) for name in "ab")
    assert right[1] < 2 < right[0] and left[0] < 2 < left[1]


def test_every_place_says_its_letter_and_a_place_without_an_answer_is_named(watched: OpenPage) -> None:
    _, frame = show(watched, kind_task("t", "rank", ["1", "2", "3"], [2, 0, 1]), Form("rank", 4))
    assert frame.locator(".answer header").all_inner_texts() == [f"{c}\nAnswer {c}" for c in "ABC"]
    assert frame.locator(".answer .text").all_inner_texts() == ["3", "1", "2"]
    assert frame.locator(".note").inner_text() == "There is no answer D here: rank it last."
    assert frame.locator(".rule").inner_text().startswith("Three possible answers")


def marked(where: Locator) -> list[str]:
    return where.locator("mark").all_inner_texts()


def alone(watched: OpenPage, *names: str) -> Page:
    """An empty page with parts of ours, whose functions can be called."""
    page = watched("about:").page
    parts = [(Path(annotation.__file__).parent / f"{name}.js").read_text(encoding="utf-8") for name in names]
    page.add_script_tag(content="\n".join(parts))
    return page


MARKUP = [
    "*",
    "**",
    "_",
    "`",
    "```",
    "~~~",
    "~~",
    "# ",
    "> ",
    "- ",
    "1. ",
    "|",
    "|-|",
    "[",
    "](",
    ")",
    "\\",
    "\n",
    "\n\n",
    " ",
    "  ",
]
WORDS = ["a", "B7", "да", "x", "9"]


def test_no_markup_hides_a_letter(watched: OpenPage) -> None:
    """Whatever the markup, every letter and digit of a text is on the page, in order."""
    page, chance = alone(watched, "markdown"), random.Random(7)
    texts = ["".join(chance.choices(MARKUP + 3 * WORDS, k=chance.randrange(1, 40))) for _ in range(3_000)]
    shown = page.evaluate("texts => texts.map(text => make('div', '', markdown(text)).textContent)", texts)
    for text, seen in zip(texts, shown, strict=True):
        assert letters(seen) == letters(text) or (seen == "(empty)" and not letters(text)), text


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def test_words_that_are_not_marked_are_the_same_on_both_sides(watched: OpenPage) -> None:
    """And of short texts as few are marked as can be."""
    page, chance = alone(watched, "differences"), random.Random(8)
    cases = []
    for _ in range(400):
        a = [chance.randrange(6) for _ in range(chance.randrange(12))]
        b = [n for n in a if chance.random() < 0.8] + [chance.randrange(9) for _ in range(chance.randrange(4))]
        cases.append((a, b))
    wide = [chance.randrange(4_000) for _ in range(3_000)]
    cases.append((wide, [n if n % 9 else -n for n in wide]))
    cases.append((wide, wide[1_000:] + wide[:1_000]))
    call = "cases => cases.map(([a, b]) => compare(a, b).map(side => [...side]))"
    for (a, b), (left, right) in zip(cases, page.evaluate(call, cases), strict=True):
        same = [n for n, differs in zip(a, left, strict=True) if not differs]
        assert same == [n for n, differs in zip(b, right, strict=True) if not differs]
        if len(a) < 20:
            assert len(same) == longest_common(a, b), (a, b)
        else:
            assert len(same) > 1_900


def longest_common(a: list[int], b: list[int]) -> int:
    best = [0] * (len(b) + 1)
    for one in a:
        before = best
        best = [0]
        for j, other in enumerate(b):
            best.append(before[j] + 1 if one == other else max(before[j + 1], best[j]))
    return best[-1]


def test_differences_are_marked_by_a_button_and_by_a_key(watched: OpenPage) -> None:
    one = "The lamp costs **nine** euros.\n\n- red\n- blue\n\n`x = 1`"
    two = "The lamp costs **ten** euros today.\n\n- red\n- green\n\n`x = 1`"
    opened, frame = show(watched, kind_task("t", "pair", [one, two]))
    button, a, b = (frame.locator(place) for place in (".differences", ".answer.a", ".answer.b"))
    before = [frame.locator(".answers").inner_html(), frame.locator(".answers").inner_text()]
    assert marked(a) == [] and button.get_attribute("aria-pressed") == "false"
    button.click()
    assert (marked(a), marked(b)) == (["nine", "blue"], ["ten", "today", "green"])
    assert frame.locator(".answers").inner_text() == before[1] and a.locator("strong mark").count() == 1
    opened.page.keyboard.press("d")
    assert marked(a) == [] and frame.locator(".answers").inner_html() == before[0]
    opened.page.locator("input[data-keyboard]").focus()  # the questions beside the frame
    opened.page.keyboard.press("d")
    assert marked(b) == ["ten", "today", "green"] and button.get_attribute("aria-pressed") == "true"
    opened.check()


def test_several_answers_are_compared_with_the_first(watched: OpenPage) -> None:
    _, frame = show(watched, kind_task("t", "rank", ["a b c", "a x c", "a b c", "b c d"]))
    frame.locator(".differences").click()
    assert [marked(frame.locator(f".answer.{name}")) for name in "abcd"] == [[], ["x"], [], ["d"]]


def test_differences_of_long_texts_are_found_in_a_moment(watched: OpenPage) -> None:
    """30,000 words, half of them again and again, with a change in every hundredth; and then without a word in common."""
    words = [f"w{n}" if n % 2 else f"often{n % 7}" for n in range(30_000)]
    changed = [f"new{n}" if n % 100 == 0 else word for n, word in enumerate(words)]
    others = [f"other{n}" for n in range(30_000)]
    for theirs, differ in ((changed, 300), (others, 30_000)):
        opened, frame = show(watched, kind_task("t", "pair", [" ".join(words), " ".join(theirs)]))
        opened.page.set_default_timeout(30_000)
        click = "button => { const start = performance.now(); button.click(); return performance.now() - start; }"
        took = frame.locator(".differences").evaluate(click)
        assert len(" ".join(marked(frame.locator(".answer.b"))).split()) == differ
        assert took < 5_000, took
        opened.check()
