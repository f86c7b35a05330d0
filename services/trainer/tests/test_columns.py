"""Places in a template: a look-up in the row, and no expression."""

from typing import Any

import pytest

from hone_trainer.data.columns import fill, map_columns
from hone_trainer.data.rejection import Rejected

ROW: dict[str, Any] = {
    "question": "Why?",
    "context": {"contexts": ["One.", "Two."], "labels": ["AIM"]},
    "answers": [
        {"text": "first", "pm_score": 1, "selected": False},
        {"text": "best", "pm_score": 4, "selected": True},
        {"text": "as good", "pm_score": 4, "selected": False},
    ],
    "a.b": "a name with a dot",
    "count": 3,
    "share": 0.5,
    "done": True,
    "nothing": None,
    "none": [],
}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{question}", "Why?"),
        ("Q: {question} A:", "Q: Why? A:"),
        ("{context.contexts}", "One.\nTwo."),
        ("{context.contexts[1]}", "Two."),
        ("{answers[0].text}", "first"),
        ("{answers[max pm_score].text}", "best"),
        ("{answers[max selected].text}", "best"),
        ("{a.b}", "a name with a dot"),
        ("{count} {share} {done}", "3 0.5 True"),
        ("[{nothing}]", "[]"),
        ("{none}", ""),
        ("{{question}}", "{question}"),
        ("{{{question}}}", "{Why?}"),
        ("no place", "no place"),
    ],
)
def test_a_template_is_filled_in(template: str, filled: str) -> None:
    assert fill(template, ROW) == filled


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1, 3, 2], 1),
        ([2, 2, 2], 0),
        ([-1, None, -5], 0),
        (["9", "10", "2"], 1),
        ([None, "many", 0], 2),
        ([float("nan"), 1.5, 1], 1),
        ([None, None], 0),
    ],
)
def test_the_element_with_the_largest_number_is_found(scores: list[Any], best: int) -> None:
    row = {"answers": [{"score": score, "text": str(index)} for index, score in enumerate(scores)]}
    assert fill("{answers[max score].text}", row) == str(best)


@pytest.mark.parametrize(
    "place",
    [
        "Question",
        "context.meshes",
        "context.contexts[2]",
        "none[max pm_score].text",
        "none[0]",
        "nothing.text",
        "answers[max pm_score].body",
        "question.text",
        "answers.text",
        "context..contexts",
        "answers[-1].text",
        "question.__class__",
        "answers[0]['text']",
    ],
)
def test_a_place_that_is_not_there_is_rejected(place: str) -> None:
    with pytest.raises(Rejected) as refused:
        fill(f"{{{place}}}", ROW)
    assert refused.value.reason == "missing_column"
    assert repr(place) in str(refused.value) and "question, context, answers" in str(refused.value)


@pytest.mark.parametrize("place", ["context", "answers", "answers[0]"])
def test_a_place_that_is_no_text_is_rejected(place: str) -> None:
    with pytest.raises(Rejected, match="name what is inside it") as refused:
        fill(f"{{{place}}}", ROW)
    assert refused.value.reason == "wrong_type"


def test_a_bare_name_keeps_what_it_names() -> None:
    mapped = map_columns({"messages": "answers", "prompt": "question", "system": "count"}, ROW)
    assert mapped == {"messages": ROW["answers"], "prompt": "Why?", "system": "3"}


def test_what_is_found_is_read_and_what_stands_around_it_is_not() -> None:
    mapped = map_columns({"prompt": "why {question}", "completion": "question"}, ROW, str.upper)
    assert mapped == {"prompt": "why WHY?", "completion": "WHY?"}


def test_values_are_not_filled_in_again() -> None:
    assert fill("{one}{two}", {"one": "{two}", "two": "{{"}) == "{two}{{"
