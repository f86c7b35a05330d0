"""The command line: help, and the answer to each mistake, told in one line and at once."""

import shutil
import sys
from pathlib import Path

import pytest
from merger_cli import HEAVY, refusal, run_merger
from merger_tiny import CONFIG, HUB_NAME, edit_json

from hone_contract.artifact import Artifact
from hone_merger.__main__ import main


def test_help_lists_the_commands_without_loading_a_model_library(tmp_path: Path) -> None:
    done = run_merger(tmp_path, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: hone-merger")
    assert all(f"\n    {name}" in done.out for name in ("merge", "import-adapter", "publish"))
    assert not done.imported & HEAVY


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["mrege", "x"], "invalid choice: 'mrege'"),
        (["merge"], "one of the arguments RUN_ID --run-id-file is required"),
        (["merge", "x", "--run-id-file", "y"], "not allowed with argument"),
        (["merge", "x", "--nmae", "y"], "unrecognized arguments: --nmae y"),
        (["import-adapter"], "the following arguments are required: folder"),
        (["publish", "x"], "one of the arguments --hub --folder --archive --gguf is required"),
        (["publish", "x", "--folder", "a", "--archive", "b"], "not allowed with"),
        (["publish", "x", "--gguf", "a", "--gguf-type", "q9"], "invalid choice: 'q9'"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hone-merger", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 78
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert "--help" in err


def test_an_adapter_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    told = refusal(run_merger(tmp_path, "merge", "none-0123456789"), 78)
    assert "no adapter at store/adapters/none-0123456789; `hone-store ls` lists what there is" in told


def test_a_run_id_that_is_not_written_yet_is_one_line_and_may_be_tried_again(tmp_path: Path) -> None:
    told = refusal(run_merger(tmp_path, "merge", "--run-id-file", "run-id"), 75)
    assert "run-id is not there: the training that writes it is not done" in told


@pytest.mark.usefixtures("filled")
def test_a_name_that_the_store_cannot_have_is_one_line(tmp_path: Path, adapter: Artifact) -> None:
    told = refusal(run_merger(tmp_path, "merge", adapter.manifest.id, "--name", "a/b"), 78)
    assert "'a/b' is no name for the store" in told


def test_a_base_that_is_not_there_is_one_line(tmp_path: Path, plain_adapter: Path) -> None:
    told = refusal(run_merger(tmp_path, "import-adapter", plain_adapter, "--base", "none"), 78)
    assert "is an adapter of none, which the store does not have: `hone-trainer import-base none`" in told


def test_the_base_that_the_adapter_names_is_meant(tmp_path: Path, plain_adapter: Path) -> None:
    told = refusal(run_merger(tmp_path, "import-adapter", plain_adapter), 78)
    assert f"is an adapter of {HUB_NAME}, which the store does not have" in told


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (None, "does not name its base; name it with --base"),
        ("/home/me/my-base", "is an adapter of my-base, which"),
    ],
)
def test_a_base_is_looked_for_by_what_the_adapter_says(
    tmp_path: Path, plain_adapter: Path, named: str | None, told: str
) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    edit_json(folder / CONFIG, base_model_name_or_path=named)
    assert told in refusal(run_merger(tmp_path, "import-adapter", folder), 78)


@pytest.mark.usefixtures("filled")
def test_a_folder_that_is_no_adapter_is_one_line(tmp_path: Path) -> None:
    told = refusal(run_merger(tmp_path, "import-adapter", "none", "--base", HUB_NAME), 65)
    assert f"none is no PEFT adapter: there is no {CONFIG}" in told


@pytest.mark.usefixtures("filled")
def test_another_kind_of_adapter_is_one_line(tmp_path: Path, plain_adapter: Path) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    edit_json(folder / CONFIG, peft_type="IA3")
    told = refusal(run_merger(tmp_path, "import-adapter", "adapter", "--base", HUB_NAME), 65)
    assert "adapter: is a IA3 adapter; only LoRA adapters can be merged" in told


def test_the_store_is_named_by_option_or_environment(tmp_path: Path) -> None:
    arguments = ["merge", "x"]
    assert "no adapter at named/" in refusal(run_merger(tmp_path, *arguments, HONE_STORE="named"), 78)
    given = run_merger(tmp_path, "--store", "given", *arguments, HONE_STORE="named")
    assert "no adapter at given/" in refusal(given, 78)
