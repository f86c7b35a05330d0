"""What is learned of a conversation equals what marks in the template say, whether it has them or not.

The reference is transformers' own mask for the marked template. Its end token counts as learned. It is taken
with a tokenizer whose offsets hold spaces: with the other kind, transformers loses a part that begins with
one. Turns of weight 0 are taken out of the reference by hand.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from trainer_templates import (
    CHATML,
    GEMMA,
    LLAMA_3,
    MISTRAL_FIRST,
    MISTRAL_LAST,
    PLAIN,
    QWEN_2_5,
    QWEN_3,
    SAMPLES,
    Sample,
    sentencepiece_tokenizer,
)
from transformers import PreTrainedTokenizerFast

from hone_contract.errors import BadInput
from hone_trainer.chat.conversation import see
from hone_trainer.record import Messages, Record

SYSTEM = {"role": "system", "content": "Be kind."}
SKY = {"role": "user", "content": "What is the colour of the sky?"}
BLUE = {"role": "assistant", "content": "The sky is blue."}
GRASS = {"role": "user", "content": "And the grass?"}
GREEN = {"role": "assistant", "content": "Green, mostly."}
SILENT = {"weight": 0}
THOUGHT = {"role": "assistant", "content": "<think>\nA colour, so:\n</think>\n\nThe sky is blue."}
LOOKED = {"role": "tool", "tool_call_id": "call00001", "content": '{"colour": "blue"}'}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {}, "how": {}}}},
    },
    {"type": "function", "function": {"name": "listen", "description": "Hears.", "parameters": {}}},
]


def call(*names: str, content: str = "", **more: Any) -> dict[str, Any]:
    functions = [{"name": name, "arguments": '{"how": 1, "at": "sky"}'} for name in names]
    calls = [
        {"id": f"call0000{number}", "type": "function", "function": function}
        for number, function in enumerate(functions, 1)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls, **more}


CONVERSATIONS: dict[str, Messages] = {
    "one turn": [SKY, BLUE],
    "two turns": [SKY, BLUE, GRASS, GREEN],
    "the same answer thrice": [SKY, BLUE, SKY, BLUE, SKY, BLUE],
    "system": [SYSTEM, SKY, BLUE],
    "system and three turns": [SYSTEM, SKY, BLUE, GRASS, GREEN, SKY, BLUE],
    "the first is not learned": [SKY, BLUE | SILENT, GRASS, GREEN],
    "the last is not learned": [SYSTEM, SKY, BLUE, GRASS, GREEN | SILENT],
    "weight 1": [SKY, BLUE | {"weight": 1}, GRASS, GREEN | {"weight": 1}],
    "thinking": [SKY, THOUGHT],
    "earlier thinking": [SKY, THOUGHT, GRASS, GREEN],
    "answer in the question": [{**SKY, "content": BLUE["content"]}, BLUE, SYSTEM | {"role": "user"}, BLUE],
    "template in the answer": [
        SKY,
        {
            **BLUE,
            "content": "<|im_end|>\n<|im_start|>user\nHi [/INST] x</s>[INST] <end_of_turn> Robot: {{ 1 }}",
        },
        GRASS,
        GREEN,
    ],
    "a marker in the question": [{**SKY, "content": "marker markers"}, BLUE, GRASS, GREEN],
    "an empty answer": [SKY, {**BLUE, "content": ""}, GRASS, GREEN],
    "names": [{**SKY, "name": "ann"}, {**BLUE, "name": "bob"}],
}
WITH_TOOLS: dict[str, Messages] = {
    "a call": [SKY, call("look")],
    "a call and an answer": [SYSTEM, SKY, call("look"), LOOKED, BLUE],
    "two calls": [SKY, call("look", "listen"), LOOKED, LOOKED, BLUE, GRASS, GREEN],
    "a call that is not learned": [SKY, call("look", weight=0), LOOKED, BLUE],
    "an earlier call": [SYSTEM, SKY, call("look"), LOOKED, BLUE, GRASS, call("listen"), LOOKED, GREEN],
    "no call": [SKY, BLUE, GRASS, GREEN],
}


def cases() -> list[Any]:
    found = []
    for name, sample in SAMPLES.items():
        for title, messages in CONVERSATIONS.items():
            if sample.system or messages[0]["role"] != "system":
                found.append(pytest.param(sample, messages, None, id=f"{name}: {title}"))
        for title, messages in WITH_TOOLS.items() if sample.tools else ():
            found.append(pytest.param(sample, messages, TOOLS, id=f"{name}, tools: {title}"))
    return found


def reference(sample: Sample, messages: Messages, tools: Any) -> tuple[list[int], list[bool]]:
    """Token ids, and what transformers finds between the marks."""
    out = sample.tokenizer(trim_offsets=False).apply_chat_template(
        [_parsed(message) for message in messages],
        # As vLLM has them, with a description that is null.
        tools=tools and [_described(tool) for tool in tools],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    learned = [bool(each) for each in out["assistant_masks"]]
    weights = [message.get("weight", 1) for message in messages if message["role"] == "assistant"]
    return out["input_ids"], _without(learned, weights)


def _parsed(message: dict[str, Any]) -> dict[str, Any]:
    """Arguments as objects, and a function's keys in the order of OpenAI's type, as vLLM has them."""
    kept = {key: value for key, value in message.items() if key not in ("weight", "tool_calls")}
    calls = [each["function"] for each in message.get("tool_calls", [])]
    parsed = [
        {"function": {"arguments": json.loads(each["arguments"]), "name": each["name"]}} for each in calls
    ]
    return kept | ({"tool_calls": parsed} if parsed else {})


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    names = ("name", "description", "parameters")
    return {"type": "function", "function": {name: function.get(name) for name in names}}


def _without(learned: list[bool], weights: list[int]) -> list[bool]:
    """Without the runs of turns of weight 0; runs and turns must be as many."""
    begins = [index for index, each in enumerate(learned) if each and not (index and learned[index - 1])]
    assert len(begins) == len(weights)
    for begin, weight in zip(begins, weights, strict=True):
        end = begin
        while end < len(learned) and learned[end]:
            learned[end] = learned[end] and weight != 0
            end += 1
    return learned


def seen(sample: Sample, template: str, messages: Messages, tools: Any = None, **how: bool) -> Any:
    tokenizer = sample.tokenizer(**how)
    tokenizer.chat_template = template
    return see(tokenizer, Record(messages, "data.jsonl:7", tools=tools))


@pytest.mark.parametrize("marks", [False, True], ids=["without marks", "with marks"])
@pytest.mark.parametrize("trim_offsets", [False, True], ids=["offsets with spaces", "without"])
@pytest.mark.parametrize(("sample", "messages", "tools"), cases())
def test_what_is_learned_is_what_the_marks_say(
    sample: Sample, messages: Messages, tools: Any, trim_offsets: bool, marks: bool
) -> None:
    template = sample.marked if marks else sample.unmarked
    found = seen(sample, template, messages, tools, trim_offsets=trim_offsets)
    assert (found.ids, found.learned) == reference(sample, messages, tools)
    assert any(found.learned)


def test_the_marks_change_nothing_of_what_is_written() -> None:
    """So the reference is of the same text."""
    for sample in SAMPLES.values():
        assert seen(sample, sample.marked, [SKY, BLUE, GRASS, GREEN]).text == (
            seen(sample, sample.unmarked, [SKY, BLUE, GRASS, GREEN]).text
        )


@pytest.mark.parametrize("sample", [MISTRAL_LAST, QWEN_3], ids=["mistral", "qwen"])
def test_the_samples_rewrite_earlier_turns(sample: Sample) -> None:
    """Without this, the third way would go untested."""
    tokenizer = sample.tokenizer()
    whole = tokenizer.apply_chat_template([SYSTEM, SKY, THOUGHT, GRASS, GREEN], tokenize=False)
    assert not whole.startswith(tokenizer.apply_chat_template([SYSTEM, SKY, THOUGHT], tokenize=False))


# -- any content -----------------------------------------------------------------------------------

_PIECES = [
    "<|endoftext|>",
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n",
        "[INST] ",
        " [/INST]",
        "</s>",
        "<s>",
    ),
    *("<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\n", "<end_of_turn>\n<start_of_turn>model\n"),
    *("{{ x }}", "{% generation %}", "marker", "1marker1", "2markerx2", " ", "\n", "\t", "\u2028", "\u3000"),
    *("The sky is blue.", "Robot: ", "\n----\n", "é", "e\u0301", "日本", "😀", "<tool_call>", "<b>", "\x00"),
]
_CONTENT = st.lists(
    st.sampled_from(_PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=5
).map("".join)
_ENDS = {
    "chatml": (CHATML, "{}<|im_end|>"),
    "mistral-first": (MISTRAL_FIRST, " {}</s>"),
    "mistral-last": (MISTRAL_LAST, " {}</s>"),
    "plain": (PLAIN, " {}<|endoftext|>"),
    "qwen-2.5": (QWEN_2_5, "{}<|im_end|>"),
    "llama-3": (LLAMA_3, "{}<|eot_id|>"),
    "gemma": (GEMMA, "{}<end_of_turn>"),
}
_TRIMMING = {"llama-3", "gemma"}
_TOKENIZERS = {name: sample.without_marks().tokenizer() for name, (sample, _) in _ENDS.items()}


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(sorted(_ENDS)),
    asked=st.lists(_CONTENT, min_size=3, max_size=3),
    said=st.lists(_CONTENT, min_size=3, max_size=3),
    system=st.none() | _CONTENT,
)
def test_the_learned_tokens_are_the_answers_and_their_ends_whatever_they_hold(
    name: str, asked: list[str], said: list[str], system: str | None
) -> None:
    sample, end = _ENDS[name]
    messages = [] if system is None or not sample.system else [{**SYSTEM, "content": system}]
    for question, answer in zip(asked, said, strict=True):
        messages += [{**SKY, "content": question}, {**BLUE, "content": answer}]
    found = see(_TOKENIZERS[name], Record(messages, "data.jsonl:7"))
    expected = [end.format(each.strip() if name in _TRIMMING else each) for each in said]
    assert _runs(_TOKENIZERS[name], found.ids, found.learned) == expected


def _runs(tokenizer: PreTrainedTokenizerFast, ids: list[int], learned: list[bool]) -> list[str]:
    """The text of each run of learned tokens."""
    runs: list[list[int]] = [[]]
    for token, learn in zip(ids, learned, strict=True):
        if learn:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@settings(deadline=None, max_examples=60)
@given(thought=_CONTENT, said=_CONTENT)
def test_of_an_earlier_thought_only_what_follows_it_is_learned(thought: str, said: str) -> None:
    tokenizer = QWEN_3.without_marks().tokenizer()
    answer = {**BLUE, "content": f"<think>\n{thought}\n</think>\n\n{said}"}
    found = see(tokenizer, Record([SKY, answer, GRASS, GREEN], "data.jsonl:7"))
    first, last = _runs(tokenizer, found.ids, found.learned)
    assert first == said.lstrip("\n") + "<|im_end|>"
    assert last == f"<think>\n\n</think>\n\n{GREEN['content']}<|im_end|>"


# -- tokens at the borders -------------------------------------------------------------------------


def test_a_word_with_the_space_before_it_is_learned_even_if_the_template_writes_the_space() -> None:
    """They are one token, and the model is asked with neither."""
    template = PLAIN.unmarked.replace("'Robot:'", "'Robot: '").replace("' ' + m.content", "m.content")
    found = seen(PLAIN, template, [SKY, BLUE])
    assert _runs(PLAIN.tokenizer(), found.ids, found.learned) == [" The sky is blue.<|endoftext|>"]


def test_a_space_that_the_template_writes_before_a_line_break_is_not_learned() -> None:
    """Its token has no length where offsets leave out spaces."""
    template = PLAIN.unmarked.replace("'Robot:'", "'Robot: '").replace("' ' + m.content", "m.content")
    found = seen(PLAIN, template, [SKY, {**BLUE, "content": "\nblue"}])
    assert _runs(PLAIN.tokenizer(), found.ids, found.learned) == ["\nblue<|endoftext|>"]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (CHATML, ["The▁sky.<|im_end|>", "▁Green<|im_end|>"]),
        (MISTRAL_LAST, ["▁▁The▁sky.</s>", "▁▁▁Green</s>"]),
    ],
    ids=["chatml", "mistral"],
)
def test_a_space_that_the_tokenizer_makes_up_belongs_to_what_follows_it(
    sample: Sample, expected: list[str]
) -> None:
    tokenizer = sentencepiece_tokenizer()
    tokenizer.chat_template = sample.unmarked
    messages = [SKY, {**BLUE, "content": "The sky."}, GRASS, {**GREEN, "content": " Green"}]
    found = see(tokenizer, Record(messages, "data.jsonl:7"))
    tokens = zip(tokenizer.convert_ids_to_tokens(found.ids), found.learned, strict=True)
    runs = "".join(token if learn else "\0" for token, learn in tokens).split("\0")
    assert [run for run in runs if run] == expected


def test_an_end_token_that_takes_in_the_line_break_after_it_is_learned() -> None:
    """As Phi 3's do."""
    tokenizer = CHATML.without_marks().tokenizer()
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    tokenizer.chat_template = CHATML.unmarked.replace("<|im_end|>", "<|end|>")
    found = see(tokenizer, Record([SKY, BLUE, GRASS, GREEN], "data.jsonl:7"))
    assert _runs(tokenizer, found.ids, found.learned) == [
        f"{turn['content']}<|end|>" for turn in (BLUE, GREEN)
    ]


def test_an_end_token_that_marks_leave_out_is_learned_too() -> None:
    template = CHATML.marked.replace(
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}",
        "{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    assert template != CHATML.marked
    found = seen(CHATML, template, CONVERSATIONS["the first is not learned"])
    assert (found.ids, found.learned) == reference(CHATML, CONVERSATIONS["the first is not learned"], None)


# -- what cannot be learned as it is ---------------------------------------------------------------

CUT = CHATML.unmarked.replace("m.content", "m.content[:9]")
CUT_EARLIER = CHATML.unmarked.replace("m.content", "(m.content if loop.last else m.content[:9])")
WITHOUT_END = CHATML.unmarked.replace("<|im_end|>", "")
END_IS_TEXT = CHATML.unmarked.replace("<|im_end|>", "<|stop|>")
MARKED_LAST = CHATML.marked.replace("if m.role == 'assistant'", "if m.role == 'assistant' and loop.last")
ENDS_ONLY_AT_LAST = PLAIN.unmarked.replace("eos_token", "(eos_token if loop.last else '')")


@pytest.mark.parametrize(
    ("sample", "template", "messages", "told"),
    [
        (CHATML, CUT, [SKY, BLUE], "does not write messages[1] in full"),
        (CHATML, CUT_EARLIER, [SKY, BLUE, GRASS, GREEN], "rewrites earlier turns"),
        (CHATML, WITHOUT_END, [SKY, BLUE], "no token of its own tells a model to stop"),
        (CHATML, END_IS_TEXT, [SKY, BLUE], "with '…<|stop|>', where no token of its own tells"),
        (PLAIN, ENDS_ONLY_AT_LAST, [SKY, BLUE, GRASS, GREEN], "rewrites earlier turns"),
        (CHATML, MARKED_LAST, [SKY, BLUE, SKY, BLUE], "does not mark messages[3] for training"),
        (CHATML, CHATML.unmarked, [BLUE, SKY, GREEN], "begins with the assistant's turn"),
        (CHATML, CHATML.unmarked, [SKY, BLUE | SILENT], "holds nothing to learn"),
        (CHATML, CHATML.unmarked, [SKY, call("look")], "does not write messages[1] in full"),
        (GEMMA, GEMMA.unmarked, [SYSTEM, SKY, BLUE], "refuses it: System role not supported"),
        (GEMMA, "{{ messages + 1 }}", [SKY, BLUE], "refuses it: can only concatenate list"),
    ],
)
def test_a_record_that_would_be_learned_otherwise_is_refused_with_its_line(
    sample: Sample, template: str, messages: Messages, told: str
) -> None:
    with pytest.raises(BadInput, match=r"^data\.jsonl:7: ") as caught:
        seen(sample, template, messages)
    assert told.replace("…", "y is blue."[-4:]) in str(caught.value)


def test_tools_that_the_template_does_not_write_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^data\.jsonl:7: the chat template does not write its tools"):
        seen(CHATML, CHATML.unmarked, [SKY, BLUE], TOOLS)


def test_a_first_turn_of_the_assistant_that_is_not_learned_is_taken() -> None:
    found = seen(CHATML, CHATML.unmarked, [BLUE | SILENT, SKY, GREEN])
    assert _runs(CHATML.tokenizer(), found.ids, found.learned) == ["Green, mostly.<|im_end|>"]
