"""Which chat template trains: the one that the adapter takes along and that the probes are made with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer_templates import CHATML as CHATML_SAMPLE
from trainer_templates import MISTRAL_FIRST, Sample
from trainer_tiny import bytes_of, chat_tokenizer, questions, save_base, tiny_llama, write_lines
from transformers import AutoTokenizer

from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.model_files import TOKENIZER_FILES, sha256_of
from hone_contract.probes import read_probes
from hone_contract.run_spec import ModelSpec, RunSpec
from hone_contract.store import Store
from hone_trainer.answering.probing import questions as probe_questions
from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.chat.conversation import IGNORED, see
from hone_trainer.chat.template_choice import BUILT_IN, chosen_template
from hone_trainer.plan import Plan, make_plan
from hone_trainer.record import Messages, Record
from hone_trainer.train import train

TURNS: Messages = [
    {"role": "user", "content": "Sky?"},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": " Grass? "},
    {"role": "assistant", "content": "Green."},
]
SYSTEM = {"role": "system", "content": "Be kind."}
CALL = {"type": "function", "id": "c1", "function": {"name": "look", "arguments": "{}"}}
OWN = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}{{ 'assistant: ' }}"

Write = Callable[[str], Path]


def built_in(name: str) -> str:
    text = chosen_template(RunSpec(model=ModelSpec(name="./x", chat_template=name)), Path("run.yaml"))
    assert text is not None
    return text


def shown(sample: Sample, name: str, messages: Messages) -> tuple[str, list[str]]:
    """The rendered text, and what is learned of it."""
    tokenizer = sample.tokenizer()
    tokenizer.chat_template = built_in(name)
    found = see(tokenizer, Record(messages, "data.jsonl:7"))
    labels = [each if learn else IGNORED for each, learn in zip(found.ids, found.learned, strict=True)]
    runs = " ".join("|" if label == IGNORED else str(label) for label in labels).split("|")
    return found.text, [tokenizer.decode([int(each) for each in run.split()]) for run in runs if run.strip()]


# -- those that come with Hone ---------------------------------------------------------------------


def test_there_are_the_templates_that_the_run_spec_names() -> None:
    assert BUILT_IN == ("chatml", "mistral-instruct")


def test_chatml_is_written_as_everywhere() -> None:
    text, learned = shown(CHATML_SAMPLE, "chatml", [SYSTEM, *TURNS])
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>\n"
        "<|im_start|>user\n Grass? <|im_end|>\n<|im_start|>assistant\nGreen.<|im_end|>\n"
    )
    assert learned == ["Blue.<|im_end|>", "Green.<|im_end|>"]


def test_chatml_ends_an_answer_with_the_token_that_the_base_stops_at() -> None:
    text, learned = shown(MISTRAL_FIRST, "chatml", TURNS)
    assert text.startswith("<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\nBlue.</s>\n")
    assert learned == ["Blue.</s>", "Green.</s>"]


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["without a system prompt", "with one"])
def test_mistrals_format_folds_the_system_prompt_into_the_first_question(system: Messages) -> None:
    text, learned = shown(MISTRAL_FIRST, "mistral-instruct", [*system, *TURNS])
    first = "Be kind.\n\nSky?" if system else "Sky?"
    assert text == f"<s>[INST] {first} [/INST] Blue.</s>[INST]  Grass?  [/INST] Green.</s>"
    assert learned == [" Blue.</s>", " Green.</s>"]


@pytest.mark.parametrize(
    ("name", "messages", "told"),
    [
        (
            "chatml",
            [TURNS[0], {"role": "tool", "tool_call_id": "c1", "content": "x"}, TURNS[1]],
            "no role tool",
        ),
        ("chatml", [TURNS[0], TURNS[1] | {"tool_calls": [CALL]}], "no way to write tool calls"),
        ("mistral-instruct", [SYSTEM, TURNS[1]], "must take turns, the user first"),
        ("mistral-instruct", [SYSTEM], "no user message"),
        ("mistral-instruct", [TURNS[0], TURNS[1], TURNS[1]], "must take turns"),
        ("mistral-instruct", [TURNS[0], SYSTEM, TURNS[1]], "user and assistant messages only"),
        ("mistral-instruct", [TURNS[0], TURNS[1] | {"tool_calls": [CALL]}], "no tool calls"),
    ],
)
def test_what_a_template_cannot_write_is_refused(name: str, messages: Messages, told: str) -> None:
    with pytest.raises(BadInput, match=rf"^data\.jsonl:7: .*chat template refuses it: .*{told}"):
        shown(MISTRAL_FIRST, name, messages)


@pytest.mark.parametrize("name", BUILT_IN)
def test_tools_are_refused_by_both(name: str) -> None:
    tokenizer = MISTRAL_FIRST.tokenizer()
    tokenizer.chat_template = built_in(name)
    tools = [{"type": "function", "function": {"name": "look"}}]
    with pytest.raises(BadInput, match="no way to write tools"):
        see(tokenizer, Record(TURNS, "data.jsonl:7", tools=tools))


# -- the choice ------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path, data_file: Path) -> Write:
    """Writes a run spec, beside which is the base `raw`, without a template; its data is there, too."""
    base = save_base(tmp_path / "raw", tiny_llama(len(chat_tokenizer())), chat_tokenizer())
    (base / "chat_template.jinja").unlink()

    def write(template: str, base: str = "raw") -> Path:
        spec = tmp_path / "run.yaml"
        chosen = f", chat_template: {template}" if template else ""
        spec.write_text(f"model: {{name: ./{base}{chosen}}}\ndata: {data_file.name}\n", encoding="utf-8")
        return spec

    return write


def plan(spec: Path, store: Store) -> Plan:
    return make_plan(spec, None, store)


def test_a_base_without_a_template_is_refused_with_the_remedy(write: Write, store: Store) -> None:
    with pytest.raises(BadInput, match=r"has no chat_template\.jinja; .* `model\.chat_template: chatml`"):
        plan(write(""), store)


def test_with_one_chosen_it_is_taken(write: Write, store: Store) -> None:
    assert plan(write("chatml"), store).chat_template == built_in("chatml")


def test_a_file_is_relative_to_the_spec_and_its_content_counts(
    write: Write, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "own.jinja").write_text(OWN, encoding="utf-8")
    first = plan(write("./own.jinja"), store)
    assert first.chat_template == OWN
    assert plan(write("./own.jinja"), store).run_id == first.run_id
    (tmp_path / "own.jinja").write_text(OWN + " ", encoding="utf-8")
    assert plan(write("./own.jinja"), store).run_id != first.run_id


def test_another_template_is_another_run(write: Write, store: Store) -> None:
    ids = {plan(write(name), store).run_id for name in BUILT_IN}
    assert len(ids) == len(BUILT_IN)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "chat-ml",
            "run.yaml: model.chat_template: there is no 'chat-ml'; use chatml, mistral-instruct, or a",
        ),
        ("./none.jinja", "none.jinja cannot be read: No such file or directory; name a file"),
        ("./broken.jinja", "broken.jinja:2: is no Jinja template: "),
        ("./dated.jinja", "dated.jinja writes today's date into every prompt"),
        ("./latin.jinja", "latin.jinja is not UTF-8"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_before_the_base_is_fetched(
    write: Write, store: Store, tmp_path: Path, template: str, told: str
) -> None:
    (tmp_path / "broken.jinja").write_text("{{ 1 }}\n{% for x %}", encoding="utf-8")
    (tmp_path / "dated.jinja").write_text(OWN + "{{ strftime_now('%d') }}", encoding="utf-8")
    (tmp_path / "latin.jinja").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(BadConfiguration) as caught:
        plan(write(template), store)
    assert told in str(caught.value)
    assert not store.root.exists()


def test_a_file_with_marks_and_loop_controls_is_a_template(
    write: Write, store: Store, tmp_path: Path
) -> None:
    marked = CHATML_SAMPLE.marked.replace("{% endfor %}", "{% continue %}{% endfor %}", 1)
    (tmp_path / "own.jinja").write_text(marked, encoding="utf-8")
    assert plan(write("own.jinja"), store).chat_template == marked


def test_the_date_in_a_base_that_is_not_asked_for_its_template_does_not_matter(
    write: Write, store: Store, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "raw", tmp_path / "dated")
    (tmp_path / "dated" / "chat_template.jinja").write_text("{{ strftime_now('%d') }}", encoding="utf-8")
    assert plan(write("chatml", "dated"), store).chat_template == built_in("chatml")


# -- what is made with it --------------------------------------------------------------------------


@pytest.mark.chain
def test_the_chosen_template_trains_and_travels_and_probes(
    write: Write, store: Store, tmp_path: Path
) -> None:
    """In the place of one in the tokenizer's settings, as older bases have it."""
    config_file = tmp_path / "raw" / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) | {"chat_template": "{{ 'another' }}"}
    config_file.write_text(json.dumps(config), encoding="utf-8")
    write_lines(tmp_path / "data.jsonl", questions(4))
    spec = write("mistral-instruct")
    spec.write_text(spec.read_text(encoding="utf-8") + "training: {epochs: 1}\n", encoding="utf-8")
    planned = plan(spec, store)
    adapter = train(planned, store)

    template = built_in("mistral-instruct")
    tokenizer = AutoTokenizer.from_pretrained(adapter.path)
    assert tokenizer.chat_template == template
    assert (adapter.path / "chat_template.jinja").read_text(encoding="utf-8") == template
    written = json.loads((adapter.path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written == config | {"chat_template": template}
    others = [
        name for name in TOKENIZER_FILES if name not in ("chat_template.jinja", "tokenizer_config.json")
    ]
    assert bytes_of(adapter.path, others) == bytes_of(planned.base.path, others)
    assert load_tokenizer(planned.base.path, template).chat_template == template

    probes = read_probes(adapter.path)
    assert probes.chat_template_sha256 == sha256_of(adapter.path, "chat_template.jinja")
    for probe in probes.probes:
        assert tokenizer.decode(probe.prompt_token_ids).startswith("[INST] What is the colour")
        assert probe.prompt_token_ids == tokenizer.apply_chat_template(
            probe.messages, add_generation_prompt=True, return_dict=False
        )


# -- probes ----------------------------------------------------------------------------------------


def asked(records: list[Record], name: str = "chatml") -> list[tuple[Messages, object]]:
    tokenizer = MISTRAL_FIRST.tokenizer()
    tokenizer.chat_template = MISTRAL_FIRST.unmarked if name == "tools" else built_in(name)
    return [(question.messages, question.tools) for question in probe_questions(tokenizer, records)]


def test_a_probe_has_the_tools_and_no_weights() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    messages = [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0}, TURNS[2]]
    [(found, with_tools)] = asked([Record([*messages, TURNS[3]], "a:1", tools=tools)], "tools")
    assert found == [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}, TURNS[2]]
    assert with_tools == tools


def test_a_text_is_asked_for_by_its_turns_or_its_beginning() -> None:
    turns = Record(TURNS, "a:1", text="x", trained=[[0, 1]])
    plain = Record([], "a:2", text="y" * 300, trained=[[0, 300]])
    answer = Record(TURNS[1:2], "a:3", text="z", trained=[[0, 1]])
    first = [{"role": "user", "content": "y" * 200}], [{"role": "user", "content": "z"}]
    assert asked([turns, plain, answer]) == [(TURNS[:-1], None), (first[0], None), (first[1], None)]


def test_what_the_template_refuses_is_no_probe() -> None:
    refused = Record([TURNS[0], TURNS[0], TURNS[1]], "a:1", text="x", trained=[[0, 1]])
    assert asked([refused, Record(TURNS, "a:2")], "mistral-instruct") == [(TURNS[:-1], None)]
    with pytest.raises(BadInput, match=r"^a:1: the chat template refuses this conversation"):
        asked([refused], "mistral-instruct")
