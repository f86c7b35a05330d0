"""Which records a filter wants, and what is left of HTML."""

from typing import Any

import pytest

from hone_contract.data_spec import SourceSpec
from hone_trainer.data.filters import Filter
from hone_trainer.data.formats import Draft
from hone_trainer.data.html_text import html_text


def wants(text: str, **source: Any) -> bool:
    """Whether a question with this text is kept."""
    draft = Draft([{"role": "user", "content": text}, {"role": "assistant", "content": "An answer."}])
    return Filter(SourceSpec(path="x", **source)).wants({"question": text}, draft)


@pytest.mark.parametrize(
    ("keyword", "text", "held"),
    [
        # Words, and not parts of words.
        ("CMOS", "A CMOS gate.", True),
        ("CMOS", "a cmos gate", True),
        ("cmos", "(CMOS)", True),
        ("CMOS", "BiCMOS", False),
        ("CMOS", "CMOS2", False),
        ("CMOS", "CMOS_cell", False),
        ("AI", "AI.", True),
        ("AI", "rain, said", False),
        ("gate", "gâte, aggregate, gaté", False),
        ("gypten", "Ägypten", False),
        ("кот", "которые", False),
        ("кот", "Мой КОТ спит", True),
        # Phrases.
        ("neural network", "a Neural Network that", True),
        ("neural network", "neural networks", False),
        ("neural network", "neural\n    network", True),
        ("neural network", "neuralnetwork", False),
        # Signs in them are no patterns.
        ("C++", "in C++, and", True),
        ("C++", "CCC", False),
        (".NET", "the .NET runtime", True),
        (".NET", "aNET", False),
        ("k-means", "by k-means", True),
        # Scripts that are written without spaces.
        ("芯片", "国产芯片设计", True),
        ("芯片", "GPU芯片，5nm芯片2代", True),
        ("芯片", "薯片", False),
        ("GPU", "用GPU训练", True),
        ("GPU", "用GPUs训练", False),
        ("AI芯片", "国产AI芯片设计", True),
        ("AI芯片", "国产XAI芯片设计", False),
        ("チップ", "新しいチップを", True),
        ("반도체", "반도체는", True),
        ("ชิป", "นี่คือชิปใหม่", True),
    ],
)
def test_a_keyword_stands_between_borders(keyword: str, text: str, held: bool) -> None:
    assert wants(text, include=[{"keywords": [keyword]}]) is held
    assert wants(text, exclude=[{"keywords": [keyword]}]) is not held


def test_one_keyword_of_several_is_enough() -> None:
    words = ["FPGA", "integrated circuit", "芯片"]
    assert wants("An integrated circuit.", include=[{"keywords": words}])
    assert wants("FPGAs? No: FPGA!", include=[{"keywords": words}])
    assert not wants("A circuit that is integrated.", include=[{"keywords": words}])


def test_a_pattern_is_searched_for_anywhere_and_case_does_not_count() -> None:
    assert wants("The LAYERS.", include=[{"regex": r"layers?\b"}])
    assert not wants("The lay.", include=[{"regex": r"layers?\b"}])
    either = [{"keywords": ["gate"], "regex": "^why"}]
    assert wants("Why so?", include=either) and wants("The gate.", include=either)


def test_of_several_tests_one_includes_and_one_excludes() -> None:
    include = [{"keywords": ["gate"]}, {"keywords": ["wire"]}]
    exclude = [{"regex": "garden"}, {"regex": "fence"}]
    assert wants("gate", include=include, exclude=exclude)
    assert wants("wire", include=include, exclude=exclude)
    assert not wants("A garden gate.", include=include, exclude=exclude)
    assert not wants("A wire fence.", include=include, exclude=exclude)
    assert not wants("A lamp.", include=include, exclude=exclude)
    assert wants("A lamp.", exclude=exclude)


@pytest.mark.parametrize(
    ("field", "word", "held"),
    [
        (None, "asked", True),
        (None, "answered", True),
        (None, "ruled", True),
        ("user", "asked", True),
        ("user", "answered", False),
        ("assistant", "answered", True),
        ("assistant", "asked", False),
        ("system", "ruled", True),
        ("site", "stats", True),
        ("site", "asked", False),
        ("tags", "physics", True),
        ("nothing", "asked", False),
        ("score", "12", True),
    ],
)
def test_a_field_is_a_role_or_a_column(field: str | None, word: str, held: bool) -> None:
    said = [("system", "ruled"), ("user", "asked"), ("assistant", "answered")]
    draft = Draft([{"role": role, "content": content} for role, content in said])
    row = {"site": "stats", "tags": ["physics", "light"], "nothing": None, "score": 12}
    test = {"keywords": [word], "field": field}
    assert Filter(SourceSpec(path="x", include=[test])).wants(row, draft) is held


def test_of_a_preference_pair_the_better_answer_is_looked_at_and_not_the_worse() -> None:
    better, worse = ([{"role": "assistant", "content": each}] for each in ("better", "worse"))
    draft = Draft([{"role": "user", "content": "asked"}], chosen=better, rejected=worse)
    for word, held in (("better", True), ("worse", False)):
        assert Filter(SourceSpec(path="x", include=[{"keywords": [word]}])).wants({}, draft) is held


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain", "plain"),
        ("<p>One</p><p>Two</p>", "One\nTwo"),
        ("<p>One</p>\n\n<p>Two</p>\n", "One\nTwo"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul>\n<li>x</li>\n<li>y</li>\n</ul>", "x\ny"),
        ("so <em>very</em> <a href='https://example.org?a=1&amp;b=2'>good</a>", "so very good"),
        (
            "<pre><code>if (a &lt; b &amp;&amp; c) {\n    go();\n}\n</code></pre>",
            "if (a < b && c) {\n    go();\n}",
        ),
        ("<p>write <code>&lt;div&gt;</code></p>", "write <div>"),
        ("&eacute;&#233;&#xe9; &nbsp;|", "ééé \xa0|"),
        ("&amp;lt;", "&lt;"),
        ("<script>var a = '<p>';</script>x<style>p {}</style>", "x"),
        ("a<!-- <p>hidden</p> -->b", "ab"),
        ("<img src='x.png' alt='a picture'>", ""),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("a <b>bold", "a bold"),
        ("</p></div>x", "x"),
        ("<table><tr><td>1</td></tr><tr><td>2</td></tr></table>", "1\n2"),
        ("<h1>Title</h1>text", "Title\ntext"),
        ("芯片<br>设计", "芯片\n设计"),
    ],
)
def test_of_html_only_the_text_is_left(html: str, text: str) -> None:
    assert html_text(html).strip() == text.strip()
