"""The command line: help, and the answer to each mistake, told in one line and at once."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from trainer_cli import HEAVY, Outcome, refusal, run_trainer
from trainer_tiny import HUB_NAME, questions, write_lines

from hone_contract.store import Store
from hone_trainer.__main__ import main
from hone_trainer.base import import_base, locate

pytestmark = pytest.mark.chain

SPEC = "model: {name: ./model}\n"
HUB_SPEC = f"model: {{name: {HUB_NAME}}}\n"
COMMANDS = ["import-base", "prepare", "train", "generate"]


@pytest.fixture
def folder(tmp_path: Path, llama_folder: Path) -> Path:
    """A working folder in which everything is right."""
    (tmp_path / "model").symlink_to(llama_folder)
    (tmp_path / "run.yaml").write_text(SPEC, encoding="utf-8")
    write_lines(tmp_path / "data.jsonl", questions(4))
    return tmp_path


def train(folder: Path, spec: str = SPEC, data: Sequence[str] = ("--data", "data.jsonl")) -> Outcome:
    (folder / "run.yaml").write_text(spec, encoding="utf-8")
    return run_trainer(folder, "train", "run.yaml", *data)


# -- help and options ------------------------------------------------------------------------------


def test_help_lists_the_commands_without_loading_a_model_library(tmp_path: Path) -> None:
    done = run_trainer(tmp_path, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: hone-trainer")
    assert all(f"\n    {name}" in done.out for name in COMMANDS)
    assert not done.imported & HEAVY


def test_a_wrong_option_is_bad_configuration_without_loading_a_model_library(tmp_path: Path) -> None:
    done = run_trainer(tmp_path, "train", "run.yaml", "--dta", "x")
    assert (done.code, done.out) == (78, "")
    assert done.err == "hone-trainer: unrecognized arguments: --dta x. See: hone-trainer --help\n"
    assert not done.imported & HEAVY


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["tarin", "run.yaml"], "invalid choice: 'tarin'"),
        (["train"], "the following arguments are required: spec"),
        (["generate", "x", "y"], "the following arguments are required: --output"),
        (["generate", "x", "y", "--output", "z", "--max-tokens", "0"], "'0' is no whole number above 0"),
        (["generate", "x", "y", "--output", "z", "--max-tokens", "few"], "'few' is no whole number above 0"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hone-trainer", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 78
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert "--help" in err


# -- mistakes in a run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (SPEC + "epochs: 3\n", "run.yaml:2: epochs: unknown key; known here: model, name, method"),
        (SPEC + "lora:\n  dropuot: 0.1\n", "run.yaml:3: lora.dropuot: unknown key; did you mean dropout?"),
        (SPEC + "training: {epochs: many}\n", "run.yaml:2: training.epochs: input should be a valid number"),
        ("model: [\n", "run.yaml:2: not valid YAML"),
        ("model: {name: gpt2}\ndata: data.jsonl\n", "model.name: 'gpt2' is no base"),
        ("model: {name: ./none}\ndata: data.jsonl\n", "none is no model folder"),
        (SPEC + "data: none.jsonl\n", "none.jsonl: there is no such file, folder or match"),
        (
            SPEC + "data: {train: data.jsonl, max_rejected: 2}\n",
            "run.yaml:2: data.max_rejected: input should",
        ),
        (SPEC, "run.yaml: names no data"),
    ],
)
def test_a_mistake_in_the_spec_is_one_line(folder: Path, spec: str, told: str) -> None:
    assert told in refusal(train(folder, spec, data=()), 78)
    assert not (folder / "store").exists()


def test_a_spec_that_is_not_there_is_one_line(folder: Path) -> None:
    assert "none.yaml: cannot be read" in refusal(run_trainer(folder, "train", "none.yaml"), 78)


def test_a_data_file_that_is_not_there_is_one_line(folder: Path) -> None:
    told = refusal(train(folder, data=["--data", "none.jsonl"]), 78)
    assert "none.jsonl: there is no such file, folder or match; name your data with --data" in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "data.jsonl: holds no record"),
        ("{}\n", "data.jsonl:1: is in no known form: it has no fields"),
        (questions(1)[0] + "\n{\n", "data.jsonl:2: not JSON at column 2"),
    ],
)
def test_a_wrong_data_file_is_one_error(folder: Path, content: str, told: str) -> None:
    (folder / "data.jsonl").write_text(content, encoding="utf-8")
    assert told in refusal(train(folder), 65)
    assert not (folder / "store").exists()


def test_a_hub_id_without_a_hub_is_one_line_and_may_be_tried_again(folder: Path) -> None:
    told = refusal(train(folder, HUB_SPEC), 75)
    assert "cannot be fetched from the Hub (OfflineModeIsEnabled)" in told


def test_a_run_that_fails_leaves_no_earlier_runs_id(folder: Path) -> None:
    (folder / "run-id").write_text("earlier-0123456789\n", encoding="utf-8")
    done = train(folder, data=["--data", "none.jsonl", "--run-id-file", "run-id"])
    refusal(done, 78)
    assert not (folder / "run-id").exists()


# -- prepare, import-base, generate ----------------------------------------------------------------


def test_prepare_prints_the_dataset_and_loads_no_model_library_without_the_base(folder: Path) -> None:
    """A base that is not there yet, and is not to be fetched for this, counts no tokens."""
    (folder / "run.yaml").write_text(HUB_SPEC, encoding="utf-8")
    done = run_trainer(folder, "prepare", "run.yaml", "--data", "data.jsonl")
    assert done.code == 0, done.err
    assert (folder / "store" / "datasets" / done.out.strip() / "manifest.json").is_file()
    assert not done.imported & HEAVY
    assert (
        json.loads((folder / "store" / "datasets" / done.out.strip() / "report.json").read_text())["tokens"]
        is None
    )


def test_importing_a_folder_loads_no_model_library(folder: Path) -> None:
    done = run_trainer(folder, "import-base", "./model", "--name", "mine")
    assert done.code == 0, done.err
    assert '"event":"base_ready"' in done.err
    assert (folder / "store" / "bases" / "mine" / "manifest.json").is_file()
    assert not done.imported & HEAVY


def test_the_store_is_named_by_option_or_environment(folder: Path) -> None:
    (folder / "run.yaml").write_text(HUB_SPEC, encoding="utf-8")
    arguments = ["prepare", "run.yaml", "--data", "data.jsonl"]
    assert run_trainer(folder, *arguments, HONE_STORE="named").code == 0
    assert run_trainer(folder, "--store", "given", *arguments, HONE_STORE="named").code == 0
    assert {path.name for path in folder.glob("*/datasets")} == {"datasets"}
    assert {path.parent.name for path in folder.glob("*/datasets")} == {"named", "given"}


@pytest.mark.parametrize(
    ("base", "questions_file", "output", "code", "told"),
    [
        ("none", "data.jsonl", "out.jsonl", 78, "no base at store/bases/none"),
        ("model", "none.jsonl", "out.jsonl", 78, "none.jsonl: there is no such file"),
        ("model", "run.yaml", "out.jsonl", 78, "run.yaml: '.yaml' says no known format"),
        ("model", "bad.jsonl", "out.jsonl", 65, "bad.jsonl:1: not JSON"),
        ("model", "data.jsonl", "none/out.jsonl", 78, "--output: there is no folder none"),
        ("raw", "data.jsonl", "out.jsonl", 65, "store/bases/raw has no chat_template.jinja"),
    ],
)
def test_a_mistake_in_generate_is_one_line(
    folder: Path, base: str, questions_file: str, output: str, code: int, told: str
) -> None:
    store = Store(folder / "store")
    import_base(locate(str(folder / "model"), None, "model"), store)
    write_lines(folder / "bad.jsonl", ["model: x"])
    raw = folder / "raw"
    raw.mkdir()
    for path in (folder / "model").iterdir():
        if path.name != "chat_template.jinja":
            (raw / path.name).write_bytes(path.read_bytes())
    import_base(locate(str(raw), None), store)
    done = run_trainer(folder, "generate", base, questions_file, "--output", output)
    assert told in refusal(done, code)


def test_strict_refuses_at_the_first_bad_record(folder: Path) -> None:
    (folder / "run.yaml").write_text(
        HUB_SPEC + "data: {train: data.jsonl, max_rejected: 0.9}\n", encoding="utf-8"
    )
    with (folder / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n")
    assert run_trainer(folder, "prepare", "run.yaml").code == 0
    assert "data.jsonl:5: not JSON" in refusal(run_trainer(folder, "prepare", "run.yaml", "--strict"), 65)
