"""The run spec: what may be written in it, and how a mistake is told."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from pydantic import ValidationError

from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadConfiguration
from hone_contract.run_spec import LoraSpec, ModelSpec, RunSpec, TrainingSpec
from hone_contract.spec_file import dump_run_spec, load_run_spec

GUIDE = """\
model:    {name: Qwen/Qwen2.5-1.5B-Instruct}
lora:     {r: 16, alpha: 32, dropout: 0.05}
training: {epochs: 3, batch_size: 4, learning_rate: 2e-4}
"""
SHORTEST = "model: {name: tiny}\n"
MODEL = ModelSpec(name="tiny")


def _load(folder: Path, text: str, name: str = "run.yaml") -> RunSpec:
    (folder / name).write_text(text, encoding="utf-8")
    return load_run_spec(folder / name)


def _mistake(folder: Path, text: str) -> str:
    """What is said about a wrong spec, without the path in front."""
    with pytest.raises(BadConfiguration) as caught:
        _load(folder, text)
    assert caught.value.exit_code == 78
    path = str(folder / "run.yaml")
    assert str(caught.value).startswith(f"{path}:")
    return str(caught.value).replace(path, "run.yaml")


# --- what is accepted


def test_the_spec_of_a_well_known_guide_works_unchanged(tmp_path: Path) -> None:
    assert _load(tmp_path, GUIDE) == RunSpec(
        model=ModelSpec(name="Qwen/Qwen2.5-1.5B-Instruct"),
        lora=LoraSpec(r=16, alpha=32, dropout=0.05),
        training=TrainingSpec(epochs=3, batch_size=4, learning_rate=0.0002),
    )


def test_the_shortest_spec_is_a_name(tmp_path: Path) -> None:
    spec = _load(tmp_path, SHORTEST)
    assert spec == RunSpec(model=MODEL)
    assert (spec.method, spec.data, spec.training.seed) == ("lora", None, 3407)


def test_every_key_can_be_given(tmp_path: Path) -> None:
    text = """
model: {name: ./base, revision: "main"}
name: faq
method: lora
data: {train: a.jsonl, eval: b.jsonl, eval_fraction: 0, seed: 1}
lora: {r: 8, alpha: 16, dropout: 0, target_modules: [q_proj, v_proj]}
training:
  {epochs: 0.5, batch_size: 1, gradient_accumulation_steps: 2, learning_rate: 1e-5, scheduler: cosine,
   warmup_steps: 3, weight_decay: .01, max_grad_norm: 0.3, max_length: 512, dtype: float32, seed: 0}
"""
    assert _load(tmp_path, text) == RunSpec(
        model=ModelSpec(name="./base", revision="main"),
        name="faq",
        data=DataSpec(train="a.jsonl", eval="b.jsonl", eval_fraction=0, seed=1),
        lora=LoraSpec(r=8, alpha=16, dropout=0, target_modules=["q_proj", "v_proj"]),
        training=TrainingSpec(
            epochs=0.5,
            batch_size=1,
            gradient_accumulation_steps=2,
            learning_rate=0.00001,
            scheduler="cosine",
            warmup_steps=3,
            weight_decay=0.01,
            max_grad_norm=0.3,
            max_length=512,
            dtype="float32",
            seed=0,
        ),
    )


def test_data_may_be_just_a_file(tmp_path: Path) -> None:
    spec = _load(tmp_path, SHORTEST + "data: faq.jsonl\n")
    assert spec.data == DataSpec(train="faq.jsonl")


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_accepted(tmp_path: Path, indent: int | str | None) -> None:
    told = {"model": {"name": "tiny"}, "data": "a.jsonl", "training": {"learning_rate": 2e-05, "seed": 7}}
    spec = _load(tmp_path, json.dumps(told, indent=indent), "run.json")
    assert spec == RunSpec(
        model=MODEL, data=DataSpec(train="a.jsonl"), training=TrainingSpec(learning_rate=2e-05, seed=7)
    )


@pytest.mark.parametrize("written", ["2e-4", "2E-4", "2.e-4", "2.0e-4", "0.0002", ".0002", "+2e-4"])
def test_numbers_are_numbers_as_people_write_them(tmp_path: Path, written: str) -> None:
    spec = _load(tmp_path, SHORTEST + f"training: {{learning_rate: {written}}}\n")
    assert spec.training.learning_rate == 0.0002


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "n"])
def test_words_are_not_booleans(tmp_path: Path, word: str) -> None:
    assert _load(tmp_path, SHORTEST + f"name: {word}\n").name == word


@pytest.mark.parametrize("revision", ["2024-01-31", "v1.0", "1:30", "0x1f", "1_000", "7ae5576"])
def test_a_revision_that_looks_like_something_else_is_text(tmp_path: Path, revision: str) -> None:
    assert _load(tmp_path, f"model: {{name: tiny, revision: {revision}}}\n").model.revision == revision


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbf" + GUIDE.replace("\n", "\r\n").encode())
    assert load_run_spec(tmp_path / "run.yaml") == _load(tmp_path, GUIDE, "plain.yaml")


# --- what is refused, and how


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SHORTEST + "lorra: {}", "run.yaml:2: lorra: unknown key; did you mean lora?"),
        (SHORTEST + "lora:\n  r: 8\n  alhpa: 3", "run.yaml:4: lora.alhpa: unknown key; did you mean alpha?"),
        (
            SHORTEST + "training: {lr: 1, learning_rte: 1}",
            "run.yaml:2: training.learning_rte: unknown key; did you mean learning_rate?",
        ),
        (
            SHORTEST + "data: {file: a.jsonl, train: b}",
            "run.yaml:2: data.file: unknown key; known here: train, sources, total, eval, eval_fraction, ",
        ),
        ("model: {nam: x, name: y}", "run.yaml:1: model.nam: unknown key; did you mean name?"),
        (SHORTEST + "<<: [{lorra: 1}]", "run.yaml:1: lorra: unknown key; did you mean lora?"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(tmp_path: Path, text: str, told: str) -> None:
    assert told in _mistake(tmp_path, text).splitlines()[-1].strip()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# a comment\nname: faq\n", "run.yaml:2: model: is missing"),
        ("name: faq\nmodel: {}\n", "run.yaml:2: model.name: is missing"),
        (SHORTEST + "data:\n  eval: x\n", "run.yaml:2: data: needs train or sources, and not both"),
    ],
)
def test_a_missing_key_is_told(tmp_path: Path, text: str, told: str) -> None:
    assert _mistake(tmp_path, text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SHORTEST + "lora:\n  r: big\n", "run.yaml:3: lora.r: input should be a valid integer, not 'big'"),
        (SHORTEST + "lora: {r: 8.0}", "run.yaml:2: lora.r: input should be a valid integer, not 8.0"),
        (SHORTEST + "lora: {r: '8'}", "run.yaml:2: lora.r: input should be a valid integer, not '8'"),
        (SHORTEST + "lora: {r: true}", "run.yaml:2: lora.r: input should be a valid integer, not True"),
        (SHORTEST + "training: {seed: 010}", "run.yaml:2: training.seed: input should be a valid integer"),
        (SHORTEST + "lora: {r: 0}", "lora.r: input should be greater than or equal to 1, not 0"),
        (
            SHORTEST + "training: {epochs: .inf}",
            "training.epochs: input should be a valid number, not '.inf'",
        ),
        (
            SHORTEST + "training: {epochs: 1e999}",
            "training.epochs: input should be less than or equal to 1000",
        ),
        (SHORTEST + "training: {learning_rate: 0}", "training.learning_rate: input should be greater than 0"),
        (SHORTEST + "training:\n", "run.yaml:2: training: input should be a valid dictionary"),
        (
            SHORTEST + "method: dora\n",
            "run.yaml:2: method: input should be 'lora', 'qlora' or 'full', not 'dora'",
        ),
        (SHORTEST + "data: 3\n", "run.yaml:2: data: input should be a valid dictionary"),
        (SHORTEST + "name: My Model\n", "run.yaml:2: name: string should match pattern"),
        (SHORTEST + 'name: "faq\\n"\n', "run.yaml:2: name: string should match pattern"),
        (SHORTEST + "name: 12\n", "run.yaml:2: name: input should be a valid string, not 12"),
        ("model: tiny\n", "run.yaml:1: model: input should be a valid dictionary"),
        ('model: {name: ""}\n', "run.yaml:1: model.name: string should have at least 1 character"),
        (
            SHORTEST + "lora:\n  target_modules:\n    - q_proj\n    - 7\n",
            "run.yaml:5: lora.target_modules.1: input should be a valid string, not 7",
        ),
        (SHORTEST + "1: x\n", "1: keys should be strings"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_found(tmp_path: Path, text: str, told: str) -> None:
    assert told in _mistake(tmp_path, text)


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("method: qlora\n", "full: weights in 4 bits cannot be split; use method: lora"),
        ("backend: unsloth\n", "full: backend: unsloth trains on one GPU"),
        ("  optimizer: adamw_8bit\n", "full: an optimizer in 8 bits cannot be split; use adamw"),
    ],
)
def test_what_cannot_be_shared_out_is_told(tmp_path: Path, rest: str, told: str) -> None:
    text = f"{SHORTEST}training:\n  sharding: full\n"
    assert _load(tmp_path, text).training.sharding == "full"
    assert f"training.sharding: {told}" in _mistake(tmp_path, text + rest)


def test_pairs_are_learned_by_an_objective_of_their_own(tmp_path: Path) -> None:
    spec = _load(tmp_path, SHORTEST + "method: qlora\nobjective: dpo\n")
    assert (spec.objective, spec.dpo.beta) == ("dpo", 0.1)
    assert _load(tmp_path, SHORTEST + "objective: dpo\ndpo: {beta: 2}\n").dpo.beta == 2
    assert _load(tmp_path, SHORTEST).objective == "sft"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("method: dpo\n", "run.yaml:2: method: dpo says what is learned, not how; write objective: dpo"),
        ("objective: kto\n", "run.yaml:2: objective: input should be 'sft' or 'dpo', not 'kto'"),
        ("dpo: {beta: 0.5}\n", "dpo is for preference pairs; write objective: dpo as well"),
        ("objective: dpo\ndpo: {beta: 0}\n", "dpo.beta: input should be greater than 0, not 0"),
        ("objective: dpo\ndpo: {beta: 2.1}\n", "dpo.beta: input should be less than or equal to 2"),
        ("objective: dpo\ndpo: {bata: 1}\n", "run.yaml:3: dpo.bata: unknown key; did you mean beta?"),
        ("objective: dpo\nmethod: full\n", "objective: dpo: method: full overwrites the base"),
        ("objective: dpo\nbackend: unsloth\n", "objective: dpo: backend: unsloth is for objective: sft"),
        (
            "objective: dpo\ntraining: {neftune_noise_alpha: 5}\n",
            "objective: dpo: leave training.neftune_noise_alpha out",
        ),
    ],
)
def test_what_does_not_go_with_an_objective_is_told(tmp_path: Path, text: str, told: str) -> None:
    assert told in _mistake(tmp_path, SHORTEST + text)


def test_all_mistakes_are_told_at_once_each_on_its_line(tmp_path: Path) -> None:
    mistake = _mistake(tmp_path, "model: {name: tiny}\nnmae: x\nlora:\n  r: 0\n  x: 1\n")
    assert re.findall(r"run\.yaml:(\d+): ([\w.]+):", mistake) == [
        ("4", "lora.r"),
        ("5", "lora.x"),
        ("2", "nmae"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SHORTEST + "name: a\nname: b\n", "run.yaml:3: name: given twice, first in line 2; keep one"),
        (SHORTEST + "lora:\n  r: 8\n  r: 8\n", "run.yaml:4: r: given twice, first in line 3; keep one"),
    ],
)
def test_a_key_given_twice_is_told(tmp_path: Path, text: str, told: str) -> None:
    assert _mistake(tmp_path, text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SHORTEST + "lora: {r: 8\n", "run.yaml:3: not valid YAML: "),
        (SHORTEST + "lora:\n\tr: 8\n", "run.yaml:3: not valid YAML: found character"),
        ("a: 1\n---\nb: 2\n", "run.yaml:2: not valid YAML: but found another document"),
        ("model: {name: x}\nlora: *nowhere\n", "run.yaml:2: not valid YAML: found undefined alias"),
        (
            "model: {name: x}\nname: !!python/name:os.system\n",
            "run.yaml:2: not valid YAML: could not determine",
        ),
        ("\0", "run.yaml:1: not valid YAML: "),
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert _mistake(tmp_path, text).startswith(told)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# nothing but a comment\n", "- model\n- name\n", "model", "3", "[]"]
)
def test_a_file_without_a_spec_is_told_what_the_shortest_is(tmp_path: Path, text: str) -> None:
    mistake = _mistake(tmp_path, text)
    assert mistake.startswith("run.yaml: holds no run spec; the shortest is:  model: {name: ")
    assert _load(tmp_path, mistake.partition("is:  ")[2])


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"absent\.yaml: cannot be read as text"):
        load_run_spec(tmp_path / "absent.yaml")
    (tmp_path / "model.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(BadConfiguration, match=r"model\.yaml: cannot be read as text"):
        load_run_spec(tmp_path / "model.yaml")


STRANGE = [
    "model: {{ name }}",
    "? [a]\n: 1",
    "? {a: 1}\n: 1",
    "model: &a {name: *a}",
    "&a [*a]",
    "[" * 3000,
    "model: =",
    "<<: 3",
    "<<: [1]",
    "null: 1",
    "true: 1",
    "1.5: 1",
    '"": 1',
    "!!int x: 1",
    "model: !!int x",
    "model: !!float x",
    "model: !!bool x",
    "model: !!timestamp x",
    "model: !!binary ä",
    "model: !!omap x",
    "model: !!set {a}",
    "model: 2024-13-41",
    "model: 0b_",
    f"model: {'9' * 5000}",
    "data: [{a: 1, a: 2}]",
    "data: [{[a]: 1}]",
    "model: {name: x}\nlora: {target_modules: [[a]]}",
    "model: {name: x}\nlora: {target_modules: {a: [b]}}",
    "model: {name: x, 0: {1: 2}}",
    "%YAML 9.9\n---\na: 1",
    "\ud7ff: \U0010ffff",
]


@pytest.mark.parametrize("text", STRANGE)
def test_the_strangest_file_gets_one_answer_and_no_traceback(tmp_path: Path, text: str) -> None:
    assert _mistake(tmp_path, text)


# --- round trips


def _specs() -> Iterator[RunSpec]:
    """Specs whose texts YAML 1.1 or 1.2 would take for something else."""
    yield RunSpec(model=MODEL)
    yield RunSpec(model=MODEL, data=DataSpec(train="a.jsonl", eval_fraction=0))
    yield RunSpec(model=MODEL, lora=LoraSpec(target_modules=["q_proj", "on", "3"]))
    yield RunSpec(model=MODEL, training=TrainingSpec(learning_rate=1e-7, epochs=1e-20, weight_decay=1e22))
    for text in [
        "1e10",
        "12345e6",
        "1E5",
        "on",
        "null",
        "~",
        "3",
        ".5",
        "1_0",
        "0o7",
        "010",
        "1:30",
        "=",
        "<<",
    ]:
        yield RunSpec(model=ModelSpec(name=text, revision=text))
    for text in [
        "2024-01-31",
        " a",
        "a: b",
        "#a",
        "*a",
        "{a}",
        "a\nb",
        "a\rb",
        "a\tb",
        "\ufeff",
        "模型",
        "\U0001f600",
    ]:
        yield RunSpec(model=ModelSpec(name=text), name="on", data=DataSpec(train=text, eval=text))


def _check_round_trip(folder: Path, spec: RunSpec) -> None:
    assert _load(folder, dump_run_spec(spec), "dumped.yaml") == spec


@pytest.mark.parametrize("spec", list(_specs()), ids=lambda spec: repr(spec.model.name))
def test_a_dumped_spec_reads_back_equal(tmp_path: Path, spec: RunSpec) -> None:
    _check_round_trip(tmp_path, spec)


def test_a_dumped_spec_spells_out_every_default() -> None:
    dumped = dump_run_spec(RunSpec(model=MODEL))
    for section in (LoraSpec, TrainingSpec):
        assert all(f"  {field}: " in dumped for field in section.model_fields)


def test_any_spec_reads_back_equal(tmp_path: Path) -> None:
    given = hypothesis.given(_any_spec())
    settings = hypothesis.settings(max_examples=60, deadline=None, database=None)
    settings(given(lambda spec: _check_round_trip(tmp_path, spec)))()


def _any_spec() -> Any:
    # PyYAML writes NEL as it is and reads it as the end of a line.
    text = st.text(st.characters(exclude_characters="\x85", exclude_categories=["Cs"]), min_size=1)
    whole = st.integers(min_value=16, max_value=512)
    share = st.floats(min_value=0, max_value=1, exclude_max=True)
    rate = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)
    data = st.builds(DataSpec, train=text, eval=st.none() | text, eval_fraction=share, seed=whole)
    modules = st.just("all-linear") | st.lists(text, min_size=1)
    lora = st.builds(LoraSpec, r=whole, alpha=whole, dropout=share, target_modules=modules)
    training = st.builds(TrainingSpec, epochs=rate, batch_size=whole, learning_rate=rate, weight_decay=share)
    model = st.builds(ModelSpec, name=text, revision=st.none() | text)
    name = st.none() | st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
    return st.builds(RunSpec, model=model, name=name, data=st.none() | data, lora=lora, training=training)


def test_any_text_gets_a_spec_or_one_answer(tmp_path: Path) -> None:
    words = ["model", "name", "lora", "r", "data", ": ", "{", "}", "[", "]", ",", "\n", "  ", "- ", "? ", "1"]
    words += [
        "2e-4",
        "&a ",
        "*a ",
        "!!int ",
        "!!set ",
        "<<",
        "|",
        "'",
        '"',
        "#",
        "~",
        "\t",
        "---\n",
        "tiny",
        "%",
        "\\",
    ]
    text = st.lists(st.sampled_from(words) | st.text(max_size=2)).map("".join)

    def check(text: str) -> None:
        try:
            _load(tmp_path, text.encode(errors="replace").decode())
        except BadConfiguration as refused:
            assert str(refused).startswith(f"{tmp_path / 'run.yaml'}:")

    hypothesis.settings(max_examples=200, deadline=None, database=None)(hypothesis.given(text)(check))()


# --- names and documentation


@pytest.mark.parametrize(
    ("base", "title"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2.5-1.5b-instruct-tuned"),
        ("demo:smollm2-135m-instruct", "smollm2-135m-instruct-tuned"),
        ("./bases/My Model_v2/", "my-model_v2-tuned"),
        ("/srv/models/llama", "llama-tuned"),
        ("../tiny", "tiny-tuned"),
        ("./-Odd-.", "odd-tuned"),
        (".", "model-tuned"),
        ("/", "model-tuned"),
        ("./模型", "model-tuned"),
        ("x" * 200, "x" * 56 + "-tuned"),
    ],
)
def test_a_run_without_a_name_is_called_after_its_base(base: str, title: str) -> None:
    assert RunSpec(model=ModelSpec(name=base)).title == title
    assert RunSpec(model=MODEL, name=title).title == title, (
        "the made name must be one that a person could give"
    )


def test_a_given_name_wins() -> None:
    assert RunSpec(model=ModelSpec(name="Qwen/Qwen2.5"), name="faq").title == "faq"


def _properties() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    schema = RunSpec.model_json_schema()
    for title, shape in {"RunSpec": schema, **schema["$defs"]}.items():
        for name, said in shape["properties"].items():
            yield f"{title}.{name}", said, schema["$defs"].get(said.get("$ref", "").rpartition("/")[2], {})


@pytest.mark.parametrize(
    ("said", "referred"), [row[1:] for row in _properties()], ids=[row[0] for row in _properties()]
)
def test_every_key_is_documented(said: dict[str, Any], referred: dict[str, Any]) -> None:
    description = said.get("description") or referred.get("description", "")
    assert description.strip().endswith((".", "`."))
    if {"type": "null"} in said.get("anyOf", []):
        assert "None" in description, "what None does is left out"


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunSpec(model=MODEL).name = "other"  # type: ignore[misc]
