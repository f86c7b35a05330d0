"""What of a conversation is learned: exactly the assistant's words and the end token."""

import pytest
from trainer_tiny import CHATML, END, Turn, conversation
from transformers import PreTrainedTokenizerFast

from hone_contract.errors import BadInput
from hone_trainer.conversation import IGNORED, Sequence, render_prompt, to_sequence
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
