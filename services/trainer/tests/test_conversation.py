"""A record as the model sees it: its tokens, and which of them are learned. More of masks in test_masks."""

import pytest
from tokenizers import processors
from trainer_templates import LLAMA_3, PLAIN, QWEN_2_5, Sample
from trainer_tiny import CHATML, END, Turn, conversation
from transformers import PreTrainedTokenizerFast

from hone_contract.errors import BadInput
from hone_trainer.chat.chat_templates import client_messages, served_messages, served_tools
from hone_trainer.chat.conversation import IGNORED, Sequence, render_prompt, see, to_sequence
from hone_trainer.record import Record

LONG = 2048
SYSTEM = ("system", "Be kind.")
SKY = [("user", "What is the colour of the sky?"), ("assistant", "The sky is blue.")]
GRASS = [("user", "And the grass?"), ("assistant", "Green, mostly.")]

# Shows only the last answer in full, as templates do that drop earlier reasoning.
REWRITING = CHATML.replace(
    "message['content']", "(message['content'] if loop.last else message['content'][:4])"
)
# As Gemma's and older Mistrals'.
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHATML
)
# As Llama 2's: nothing marks the assistant's turn, and no line break ends it.
BARE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' <|im_end|>' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)


def record(*turns: Turn) -> Record:
    return Record(conversation(*turns), "data.jsonl:7")


def learned(tokenizer: PreTrainedTokenizerFast, sequence: Sequence) -> list[str]:
    """The text of each run of learned tokens."""
    runs: list[list[int]] = [[]]
    for token, label in zip(sequence.input_ids, sequence.labels, strict=True):
        assert label in (token, IGNORED)
        if label != IGNORED:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@pytest.fixture
def with_template(
    tokenizer: PreTrainedTokenizerFast, request: pytest.FixtureRequest
) -> PreTrainedTokenizerFast:
    """The tokenizer with the template that the test is parametrised with."""
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token=END)
    other.chat_template = request.param
    return other


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["without a system message", "with one"])
@pytest.mark.parametrize(
    "answer",
    [
        "The sky is blue.",
        "x",
        "Ünïcode, 日本語 and 😀😀.",
        "def f():\n    return 1\n\n\n    # indented",
        "  spaces around  ",
        "\n\nlines around\n\n",
        "Say user\nor assistant\n.",
    ],
)
def test_the_answer_and_its_end_token_are_learned(
    tokenizer: PreTrainedTokenizerFast, system: list[Turn], answer: str
) -> None:
    sequence = to_sequence(tokenizer, record(*system, SKY[0], ("assistant", answer)), LONG)
    assert learned(tokenizer, sequence) == [answer + END]


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["without a system message", "with one"])
def test_every_answer_of_a_longer_conversation_is_learned(
    tokenizer: PreTrainedTokenizerFast, system: list[Turn]
) -> None:
    sequence = to_sequence(tokenizer, record(*system, *SKY, *GRASS, *SKY), LONG)
    assert learned(tokenizer, sequence) == [f"{turn[1]}{END}" for turn in (SKY[1], GRASS[1], SKY[1])]


@pytest.mark.parametrize("with_template", [BARE], indirect=True, ids=["bare"])
def test_a_template_without_a_mark_before_the_answer_is_understood(
    with_template: PreTrainedTokenizerFast,
) -> None:
    sequence = to_sequence(with_template, record(*SKY, *GRASS), LONG)
    assert learned(with_template, sequence) == [f" {turn[1]} {END}" for turn in (SKY[1], GRASS[1])]


def test_the_ids_are_those_of_the_whole_rendered_conversation(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = conversation(SYSTEM, *SKY, *GRASS)
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert to_sequence(tokenizer, Record(messages, ""), LONG).input_ids == expected


@pytest.mark.parametrize("turns", [SKY, [SYSTEM, *SKY], [*SKY, *GRASS], [SYSTEM, *SKY, *GRASS]])
def test_a_prompt_is_what_was_trained_on_before_the_last_answer(
    tokenizer: PreTrainedTokenizerFast, turns: list[Turn]
) -> None:
    prompt = render_prompt(tokenizer, conversation(*turns[:-1]))
    sequence = to_sequence(tokenizer, record(*turns), LONG)
    assert sequence.input_ids[: len(prompt)] == prompt
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    rest = Sequence(sequence.input_ids[len(prompt) :], sequence.labels[len(prompt) :])
    assert rest.labels[0] == rest.input_ids[0]
    assert learned(tokenizer, rest) == [turns[-1][1] + END]


def test_a_record_of_just_the_longest_length_is_taken(tokenizer: PreTrainedTokenizerFast) -> None:
    sequence = to_sequence(tokenizer, record(*SKY), LONG)
    assert to_sequence(tokenizer, record(*SKY), len(sequence.input_ids)) == sequence


def test_a_longer_record_is_refused_with_its_line(tokenizer: PreTrainedTokenizerFast) -> None:
    length = len(to_sequence(tokenizer, record(*SKY), LONG).input_ids)
    with pytest.raises(BadInput) as caught:
        to_sequence(tokenizer, record(*SKY), length - 1)
    told = f"data.jsonl:7: has {length} tokens, more than training.max_length {length - 1}"
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("with_template", [REWRITING], indirect=True, ids=["rewriting"])
def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_line(
    with_template: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(BadInput, match=r"^data\.jsonl:7: the base's chat template rewrites earlier turns"):
        to_sequence(with_template, record(*SKY, *GRASS), LONG)


@pytest.mark.parametrize("with_template", [WITHOUT_SYSTEM], indirect=True, ids=["without_system"])
def test_a_template_that_takes_no_system_message_refuses_the_record_with_its_line(
    with_template: PreTrainedTokenizerFast,
) -> None:
    assert learned(with_template, to_sequence(with_template, record(*SKY), LONG)) == [SKY[1][1] + END]
    refused = r"^data\.jsonl:7: the base's chat template refuses it: System role not supported"
    with pytest.raises(BadInput, match=refused):
        to_sequence(with_template, record(SYSTEM, *SKY), LONG)


# -- as the server has it --------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "look", "arguments": '{"b": 1, "a": [2]}'}, "id": "c1"}


def test_messages_are_rendered_with_the_keys_that_vllm_gives_them() -> None:
    """And in their order, which a template that prints a call shows. Checked against vLLM 0.32's types."""
    messages = [
        {"content": "Sky?", "role": "user", "name": "ann"},
        {"weight": 0, "tool_calls": [CALL], "content": "", "role": "assistant"},
        {"tool_call_id": "c1", "role": "tool", "content": "blue", "name": "look"},
        {"role": "assistant", "content": "Blue.", "tool_calls": []},
    ]
    function = {"arguments": {"b": 1, "a": [2]}, "name": "look"}
    expected = [
        {"role": "user", "content": "Sky?", "name": "ann"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": function, "type": "function"}],
        },
        {"role": "tool", "content": "blue", "tool_call_id": "c1", "name": "look"},
        {"role": "assistant", "content": "Blue."},
    ]
    assert repr(served_messages(messages)) == repr(expected)


@pytest.mark.parametrize("arguments", ["", "[1]", "{", "null"])
def test_arguments_that_are_no_object_are_rendered_as_an_empty_one(arguments: str) -> None:
    call = {**CALL, "function": {"name": "look", "arguments": arguments}}
    [served] = served_messages([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert served["tool_calls"][0]["function"]["arguments"] == {}


def test_tools_are_rendered_with_the_keys_that_vllm_gives_them() -> None:
    tools = [
        {"function": {"parameters": {"z": 1, "a": 2}, "name": "look", "more": 1}, "type": "function"},
        {"type": "function", "function": {"name": "hear", "strict": True, "description": "Hears."}},
    ]
    look = {"name": "look", "description": None, "parameters": {"z": 1, "a": 2}}
    hear = {"name": "hear", "description": "Hears.", "parameters": None, "strict": True}
    expected = [{"type": "function", "function": look}, {"type": "function", "function": hear}]
    assert repr(served_tools(tools)) == repr(expected)
    assert served_tools(None) is None


def test_a_client_sends_no_weights_and_the_arguments_as_they_are() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert client_messages([message | {"weight": 1}]) == [message]


def test_a_prompt_has_the_tools() -> None:
    tokenizer = QWEN_2_5.without_marks().tokenizer()
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    messages = [*conversation(SKY[0]), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    prompt = render_prompt(tokenizer, messages[:1], tools)
    sequence = to_sequence(tokenizer, Record(messages, "", tools=tools), LONG)
    assert sequence.input_ids[: len(prompt)] == prompt
    told = '{"type": "function", "function": {"name": "look", "description": null, "parameters": {}}}'
    assert told in tokenizer.decode(prompt)
    [said] = learned(tokenizer, sequence)
    assert said == '<tool_call>\n{"name": "look", "arguments": {"b": 1, "a": [2]}}\n</tool_call><|im_end|>'


# -- texts -----------------------------------------------------------------------------------------

TEXT = "Q: The sky?\nA: blue\n\nQ: The grass?\nA: green"


def text_record(text: str, *parts: str) -> Record:
    spans = [[text.index(part), text.index(part) + len(part)] for part in parts]
    return Record([], "data.jsonl:7", text=text, trained=spans)


def test_the_parts_of_a_text_are_learned_and_its_end() -> None:
    tokenizer = PLAIN.tokenizer()
    sequence = to_sequence(tokenizer, text_record(TEXT, "blue", "green"), LONG)
    assert tokenizer.decode(sequence.input_ids) == TEXT + "<|endoftext|>"
    assert learned(tokenizer, sequence) == [" blue", " green<|endoftext|>"]


def test_a_text_that_goes_on_after_what_is_learned_is_not_ended() -> None:
    tokenizer = PLAIN.tokenizer()
    sequence = to_sequence(tokenizer, text_record(TEXT, "blue"), LONG)
    assert tokenizer.decode(sequence.input_ids) == TEXT
    assert learned(tokenizer, sequence) == [" blue"]


def test_a_text_that_ends_itself_is_not_ended_twice() -> None:
    tokenizer = PLAIN.tokenizer()
    text = "The sky is blue.<|endoftext|>"
    sequence = to_sequence(tokenizer, text_record(text, text), LONG)
    assert learned(tokenizer, sequence) == [text]


@pytest.mark.parametrize("text", ["The sky is blue.", "<|begin_of_text|>The sky is blue."])
def test_a_text_begins_with_the_token_that_a_completions_server_puts_before_it(text: str) -> None:
    tokenizer = begun(LLAMA_3)
    sequence = to_sequence(tokenizer, text_record(text, "The sky is blue."), LONG)
    assert tokenizer.decode(sequence.input_ids) == "<|begin_of_text|>The sky is blue.<|eot_id|>"
    assert learned(tokenizer, sequence) == ["The sky is blue.<|eot_id|>"]


def begun(sample: Sample) -> PreTrainedTokenizerFast:
    """Its tokenizer, which by itself puts its first token before a text."""
    tokenizer = sample.tokenizer()
    assert isinstance(tokenizer.bos_token, str)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[tokenizer.bos_token, "$A"], special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)]
    )
    return tokenizer


def test_a_text_needs_no_chat_template() -> None:
    tokenizer = PLAIN.tokenizer()
    tokenizer.chat_template = None
    assert learned(tokenizer, to_sequence(tokenizer, text_record(TEXT, "blue"), LONG)) == [" blue"]


@pytest.mark.parametrize("parts", [[], [""]])
def test_a_text_of_which_nothing_is_learned_is_refused(parts: list[str]) -> None:
    with pytest.raises(BadInput, match=r"^data\.jsonl:7: holds nothing to learn"):
        see(PLAIN.tokenizer(), text_record(TEXT, *parts))


def test_a_preference_pair_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    answers = conversation(("assistant", "Blue.")), conversation(("assistant", "Red."))
    pair = Record(conversation(SKY[0]), "data.jsonl:7", chosen=answers[0], rejected=answers[1])
    with pytest.raises(BadInput, match=r"^data\.jsonl:7: is a preference pair"):
        to_sequence(tokenizer, pair, LONG)
