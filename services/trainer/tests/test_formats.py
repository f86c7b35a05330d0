"""Each form becomes messages and loses nothing: a way back, written apart from the code, finds it all."""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hone_trainer.data.files import find_files
from hone_trainer.data.formats import Draft, How, read_record
from hone_trainer.data.reading import read_rows
from hone_trainer.data.rejection import Rejected

Row = dict[str, Any]
JOIN = "{instruction}\n\n{input}"
SUPPLEMENT = "{instruction}\n\n补充信息：{input}"

texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t{}[]\u2028 é👍🏽芯"), max_size=40
)
written = texts.filter(lambda text: text.strip() != "")
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
arguments = st.dictionaries(texts, values, max_size=3)
few = partial(settings, max_examples=60, deadline=None)


def how(**given: Any) -> How:
    return How(**{"columns": {}, "system": None, "join": JOIN, "format": None, **given})


def read(row: Row, **given: Any) -> Draft:
    unused: set[str] = set()
    draft = read_record(json.loads(json.dumps(row)), how(**given), unused)
    assert not unused
    return draft


# -- OpenAI's messages -----------------------------------------------------------------------------


@st.composite
def rounds(draw: st.DrawFn) -> list[Row]:
    """The user's turn and all that follows to the next."""
    asked: Row = {"role": "user", "content": draw(texts)}
    if draw(st.booleans()):
        asked["name"] = draw(names)
    turns = [asked]
    for number in range(draw(st.integers(0, 2))):
        calls = [_call(draw, f"call_{number}_{index}") for index in range(draw(st.integers(1, 2)))]
        turns.append({"role": "assistant", "content": draw(st.none() | texts), "tool_calls": calls})
        for call in draw(st.permutations(calls)):
            turns.append({"role": "tool", "content": draw(texts), "tool_call_id": call["id"]})
    return [*turns, {"role": "assistant", "content": draw(texts)}]


def _call(draw: st.DrawFn, identity: str) -> Row:
    text = json.dumps(draw(arguments), ensure_ascii=draw(st.booleans()))
    return {"id": identity, "type": "function", "function": {"name": draw(names), "arguments": text}}


@st.composite
def openai_rows(draw: st.DrawFn) -> Row:
    turns = [turn for part in draw(st.lists(rounds(), min_size=1, max_size=3)) for turn in part]
    for turn in turns[:-1]:
        if turn["role"] == "assistant" and draw(st.booleans()):
            turn["weight"] = draw(st.sampled_from([0, 1]))
    system = [{"role": "system", "content": draw(written)}] if draw(st.booleans()) else []
    row: Row = {"messages": system + turns}
    if draw(st.booleans()):
        row["tools"] = [
            {"type": "function", "function": {"name": draw(names), "parameters": draw(arguments)}}
        ]
    return row


def to_openai(draft: Draft) -> Row:
    messages = [dict(message) for message in draft.messages]
    row: Row = {"messages": messages}
    return row | ({"tools": draft.tools} if draft.tools is not None else {})


@few()
@given(openai_rows())
def test_messages_with_tools_names_and_weights_come_back(row: Row) -> None:
    draft = read(row)
    assert draft.form == "messages"
    wanted = json.loads(json.dumps(row))
    for message in wanted["messages"]:
        # A call without words is written with null.
        message["content"] = message["content"] or ""
    assert to_openai(draft) == wanted


@few(max_examples=20)
@given(st.lists(texts, min_size=1, max_size=4), texts)
def test_the_parts_of_a_content_are_joined(pieces: list[str], answer: str) -> None:
    content = [{"type": "text", "text": piece} for piece in pieces]
    asked = {"role": "developer", "content": "Be brief."}, {"role": "user", "content": content}
    draft = read({"messages": [*asked, {"role": "assistant", "content": answer}]})
    assert [message["content"] for message in draft.messages] == ["Be brief.", "".join(pieces), answer]
    assert draft.messages[0]["role"] == "system"


# -- ShareGPT --------------------------------------------------------------------------------------

humans, answerers = (
    st.sampled_from(["human", "user"]),
    st.sampled_from(["gpt", "chatgpt", "assistant", "model"]),
)


@st.composite
def sharegpt_rows(draw: st.DrawFn) -> Row:
    turns = [{"from": "system", "value": draw(written), "weight": None}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"from": draw(humans), "value": draw(texts), "weight": 0.0})
        if draw(st.booleans()):
            called = {"name": draw(names), "arguments": draw(arguments)}
            turns.append({"from": "function_call", "value": json.dumps(called)})
            turns.append({"from": draw(st.sampled_from(["observation", "tool"])), "value": draw(texts)})
        turns.append({"from": draw(answerers), "value": draw(texts), "weight": 1.0})
    return {"conversations": turns}


def to_sharegpt(draft: Draft) -> list[tuple[str, Any]]:
    turns: list[tuple[str, Any]] = []
    for message in draft.messages:
        if message.get("tool_calls"):
            [call] = message["tool_calls"]
            function = call["function"]
            turns.append(("call", {**function, "arguments": json.loads(function["arguments"])}))
        else:
            turns.append((message["role"], message["content"]))
    return turns


@few()
@given(sharegpt_rows())
def test_conversations_with_calls_and_their_results_come_back(row: Row) -> None:
    roles = {"system": "system", "human": "user", "user": "user", "observation": "tool", "tool": "tool"}
    wanted = [
        ("call", json.loads(turn["value"]))
        if turn["from"] == "function_call"
        else (roles.get(turn["from"], "assistant"), turn["value"])
        for turn in row["conversations"]
    ]
    draft = read(row)
    assert draft.form == "sharegpt"
    assert to_sharegpt(draft) == wanted
    calls = [call["id"] for message in draft.messages for call in message.get("tool_calls", [])]
    assert calls == [message["tool_call_id"] for message in draft.messages if message["role"] == "tool"]


# -- Alpaca, pairs, text ---------------------------------------------------------------------------


@few()
@given(texts, texts, texts, st.sampled_from(["output", "response"]), st.sampled_from([JOIN, SUPPLEMENT]))
def test_an_instruction_and_its_input_come_back(
    instruction: str, more: str, answer: str, name: str, join: str
) -> None:
    draft = read({"instruction": instruction, "input": more, name: answer}, join=join)
    asked, answered = draft.messages
    assert (asked["role"], answered) == ("user", {"role": "assistant", "content": answer})
    between = join.removeprefix("{instruction}").removesuffix("{input}")
    if more.strip():
        assert asked["content"] == instruction + between + more
    else:
        assert asked["content"] == instruction


@few(max_examples=20)
@given(texts, written)
def test_an_instruction_needs_no_input_and_may_have_a_system_prompt(answer: str, system: str) -> None:
    draft = read({"instruction": "Say it.", "system": system, "output": answer})
    assert [message["content"] for message in draft.messages] == [system, "Say it.", answer]


@pytest.mark.parametrize(
    ("question", "answer"), [("prompt", "completion"), ("prompt", "response"), ("input", "output")]
)
@few(max_examples=30)
@given(texts, texts)
def test_a_pair_comes_back(question: str, answer: str, asked: str, answered: str) -> None:
    draft = read({question: asked, answer: answered})
    assert draft.form == f"{question}/{answer}"
    assert {question: draft.messages[0]["content"], answer: draft.messages[1]["content"]} == {
        question: asked,
        answer: answered,
    }


@few(max_examples=30)
@given(openai_rows())
def test_a_pair_of_lists_of_messages_comes_back(row: Row) -> None:
    *asked, answered = row["messages"]
    both = to_openai(read({"prompt": asked, "completion": [answered]}))["messages"]
    assert both == to_openai(read({"messages": row["messages"]}))["messages"]


@few(max_examples=30)
@given(texts)
def test_a_text_is_learned_from_its_first_character_to_its_last(text: str) -> None:
    draft = read({"text": text})
    assert (draft.text, draft.trained) == (text, [[0, len(text)]])
    assert draft.messages == [{"role": "assistant", "content": text}]


# -- preference pairs ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["output", "completion"])
@few(max_examples=30)
@given(openai_rows(), texts, texts)
def test_the_preference_pairs_of_openai_come_back(ending: str, row: Row, better: str, worse: str) -> None:
    asked = row["messages"][:-1]
    draft = read(
        {
            "input": {**row, "messages": asked},
            f"preferred_{ending}": [{"role": "assistant", "content": better}],
            f"non_preferred_{ending}": [{"role": "assistant", "content": worse}],
        }
    )
    assert draft.form == "preference"
    assert draft.tools == row.get("tools")
    assert draft.messages == [{**each, "content": each["content"] or ""} for each in asked]
    assert draft.chosen == [{"role": "assistant", "content": better}]
    assert draft.rejected == [{"role": "assistant", "content": worse}]


@st.composite
def trl_rows(draw: st.DrawFn) -> tuple[Row, tuple[str, str, str]]:
    asked, better, worse = draw(texts), draw(texts), draw(texts)
    prompt = [{"role": "user", "content": asked}]
    chosen, rejected = ([{"role": "assistant", "content": each}] for each in (better, worse))
    row = draw(
        st.sampled_from(
            [
                {"prompt": asked, "chosen": better, "rejected": worse},
                {"prompt": prompt, "chosen": chosen, "rejected": rejected},
                {"chosen": prompt + chosen, "rejected": prompt + rejected},
                {"prompt": asked, "chosen": prompt + chosen, "rejected": prompt + rejected},
            ]
        )
    )
    return row, (asked, better, worse)


@few()
@given(trl_rows())
def test_the_preference_pairs_of_trl_come_back(made: tuple[Row, tuple[str, str, str]]) -> None:
    row, wanted = made
    draft = read(row)
    assert draft.chosen is not None and draft.rejected is not None
    [asked], [better], [worse] = draft.messages, draft.chosen, draft.rejected
    assert (asked["content"], better["content"], worse["content"]) == wanted
    assert (asked["role"], better["role"], worse["role"]) == ("user", "assistant", "assistant")


# -- tables ----------------------------------------------------------------------------------------

columns = st.lists(
    st.sampled_from(["input", "context", "a.b", "体型", "two words", "x[0]", "completion"]),
    min_size=2,
    max_size=4,
    unique=True,
)


@few(max_examples=40)
@given(columns, st.data())
def test_the_columns_of_a_csv_file_come_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.lists(texts, min_size=len(names), max_size=len(names)), max_size=3))
    path = tmp_path_factory.getbasetemp() / "columns.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    *asked, answer = names
    mapping = {"prompt": "".join(f"### {{{name}}}\n" for name in asked), "completion": answer}
    [found] = find_files(str(path), Path())
    drafts = [read_record(row.value, how(columns=mapping), set()) for row in read_rows(found)]
    assert [[message["content"] for message in draft.messages] for draft in drafts] == [
        ["".join(f"### {value}\n" for value in values[:-1]), values[-1]] for values in rows
    ]


# -- a format of the user's ------------------------------------------------------------------------


@few()
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), texts, written)
def test_of_a_format_its_last_field_is_learned_and_what_stands_after_it(
    parts: list[tuple[str, str]], tail: str, answer: str
) -> None:
    parts[-1] = (parts[-1][0], answer)
    assume("".join(text + value for text, value in parts).removesuffix(answer).strip())
    doubled = str.maketrans({"{": "{{", "}": "}}"})
    template = "".join(f"{text.translate(doubled)}{{f{n}}}" for n, (text, _) in enumerate(parts))
    row = {f"f{n}": value for n, (_, value) in enumerate(parts)}
    draft = read(row, format=template + tail.translate(doubled))
    assert draft.text == "".join(text + value for text, value in parts) + tail
    [[start, end]] = draft.trained or []
    assert draft.text[start:end] == answer + tail
    assert draft.messages == [
        {"role": "user", "content": draft.text[:start]},
        {"role": "assistant", "content": answer},
    ]


def test_a_format_says_which_fields_it_does_not_use() -> None:
    unused: set[str] = set()
    row = {"a": {"b": "x"}, "c": ["y"], "d": "z"}
    read_record(row, how(format="{a.b} {c[0]}"), unused)
    assert unused == {"d"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [({"q": "x", "a": " "}, "empty"), ({"q": "x"}, "missing_column"), ({"q": "x", "a": None}, "empty")],
)
def test_a_format_needs_an_answer(row: Row, reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_record(row, how(format="Q: {q}\nA: {a}"), set())
    assert refused.value.reason == reason


# -- system prompts and HTML -----------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_an_empty_system_prompt_counts_as_none(blank: str) -> None:
    turns = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]
    row = {"conversations": [{"from": "system", "value": blank}, *turns]}
    assert [message["role"] for message in read(row).messages] == ["user", "assistant"]
    assert read(row, system="Be kind.").messages[0] == {"role": "system", "content": "Be kind."}


def test_the_system_prompt_of_a_source_does_not_displace_one() -> None:
    row = {"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant")]}
    assert read(row, system="Another.").messages[0]["content"] == "system"


def test_html_is_stripped_of_what_is_filled_in_and_not_of_what_joins_it() -> None:
    row = {
        "title": "<b>a &lt; b</b>",
        "body": "<p>One</p>\n\n<p>Two</p>",
        "answer": "<pre>x &amp;lt; y</pre>",
    }
    mapping = {"instruction": "<Q> {title}", "input": "{body}", "output": "answer"}
    draft = read(row, columns=mapping, html=True, join=SUPPLEMENT)
    asked, answered = (message["content"] for message in draft.messages)
    assert asked == "<Q> a < b\n\n补充信息：One\nTwo"
    # Once: an escaped escape stays one.
    assert answered == "x &lt; y"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "<p>asked</p>", "chosen": "<p>better</p>", "rejected": "<p>worse</p>"},
        {
            "chosen": "<p>better</p>",
            "rejected": "<p>worse</p>",
            "prompt": [{"role": "user", "content": "<i>asked</i>"}],
        },
    ],
)
def test_html_is_stripped_of_both_answers_of_a_preference_pair(row: Row) -> None:
    draft = read(row, html=True)
    assert draft.chosen is not None and draft.rejected is not None
    every = [message["content"] for message in draft.messages + draft.chosen + draft.rejected]
    assert every == ["asked", "better", "worse"]


def test_html_is_stripped_in_a_format_of_the_users() -> None:
    draft = read({"q": "<p>q</p>", "a": "<p>a</p>"}, html=True, format="<s>{q}</s>{a}")
    assert draft.text == "<s>q</s>a"
