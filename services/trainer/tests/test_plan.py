"""A run's plan: what it needs, and when it is the same run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer_tiny import HUB_NAME, questions, write_lines

from hone_contract.artifact import Artifact
from hone_contract.errors import ArtifactExists, BadConfiguration, BadInput
from hone_contract.store import Store
from hone_trainer.base import import_base, locate
from hone_trainer.plan import make_plan, prepare_data

# As a user of a well-known guide writes it, who has Qwen in mind and the data elsewhere.
SPEC = """\
model:    {name: Qwen/Qwen2.5-1.5B-Instruct}
lora:     {r: 16, alpha: 32, dropout: 0.05}
training: {epochs: 3, batch_size: 4, learning_rate: 2e-4}
"""

Write = Callable[[str], Path]


@pytest.fixture
def base(qwen_folder: Path, store: Store) -> Artifact:
    """A tiny Qwen2 under the big one's name."""
    return import_base(locate(str(qwen_folder), None, HUB_NAME), store)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run spec."""

    def write(text: str) -> Path:
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "run.yaml"

    return write


def test_a_short_spec_and_a_data_file_make_a_run(
    base: Artifact, write: Write, data_file: Path, store: Store
) -> None:
    plan = make_plan(write(SPEC), data_file, store)
    assert plan.base == base
    assert (plan.spec.lora.r, plan.spec.lora.alpha, plan.spec.lora.dropout) == (16, 32, 0.05)
    assert (plan.spec.training.epochs, plan.spec.training.learning_rate) == (3, 2e-4)
    assert plan.run_id.startswith("qwen2.5-1.5b-instruct-tuned-")
    assert plan.lineage["base"] == base.source
    assert plan.lineage["dataset"] == plan.dataset.source
    assert plan.lineage["spec"].id == plan.run_id


@pytest.mark.usefixtures("base")
def test_the_same_run_has_the_same_id(write: Write, data_file: Path, store: Store) -> None:
    first = make_plan(write(SPEC), data_file, store)
    respelled = SPEC.replace("2e-4", "0.0002") + "method: lora\n"
    assert make_plan(write(respelled), data_file, store).run_id == first.run_id
    assert make_plan(write(f"{SPEC}data: {data_file.name}\n"), None, store).run_id == first.run_id


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("old", "new"),
    [("r: 16", "r: 8"), ("epochs: 3", "epochs: 4"), ("dropout: 0.05", ""), ("}\n", "}\nname: other\n")],
)
def test_another_spec_is_another_run(write: Write, data_file: Path, store: Store, old: str, new: str) -> None:
    first = make_plan(write(SPEC), data_file, store)
    assert make_plan(write(SPEC.replace(old, new, 1)), data_file, store).run_id != first.run_id


@pytest.mark.usefixtures("base")
def test_other_data_is_another_run(write: Write, data_file: Path, store: Store) -> None:
    first = make_plan(write(SPEC), data_file, store)
    write_lines(data_file, questions(25))
    assert make_plan(write(SPEC), data_file, store).run_id != first.run_id


@pytest.mark.usefixtures("base")
def test_another_base_of_the_same_name_is_another_run(
    write: Write, data_file: Path, store: Store, llama_folder: Path, tmp_path: Path
) -> None:
    elsewhere = Store(tmp_path / "elsewhere")
    import_base(locate(str(llama_folder), None, HUB_NAME), elsewhere)
    spec = write(SPEC)
    assert make_plan(spec, data_file, store).run_id != make_plan(spec, data_file, elsewhere).run_id


def test_a_base_in_a_folder_is_imported_on_the_way(
    qwen_folder: Path, write: Write, data_file: Path, store: Store
) -> None:
    plan = make_plan(write(f"model: {{name: {qwen_folder}}}\n"), data_file, store)
    assert plan.base.path == store.base("tiny-qwen")
    assert plan.run_id.startswith("tiny-qwen-tuned-")


def test_another_folder_of_the_same_name_is_refused(
    qwen_folder: Path, llama_folder: Path, write: Write, data_file: Path, store: Store
) -> None:
    import_base(locate(str(llama_folder), None, qwen_folder.name), store)
    with pytest.raises(ArtifactExists, match="was imported from folder:tiny-llama"):
        make_plan(write(f"model: {{name: {qwen_folder}}}\n"), data_file, store)


# -- data ------------------------------------------------------------------------------------------


def test_paths_in_a_spec_are_relative_to_it(
    write: Write, data_file: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, dataset = prepare_data(write(f"{SPEC}data: ./{data_file.name}\n"), None, store)
    assert dataset.manifest.lineage["train"].id == data_file.name


def test_a_data_option_is_relative_to_where_the_command_runs(
    write: Write, data_file: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write(SPEC)
    (tmp_path / "here").mkdir()
    data_file.rename(tmp_path / "here" / "mine.jsonl")
    monkeypatch.chdir(tmp_path / "here")
    _, dataset = prepare_data(spec, Path("mine.jsonl"), store)
    assert dataset.manifest.lineage["train"].id == "mine.jsonl"


def test_a_data_option_replaces_both_files_of_the_spec_and_keeps_how_to_split(
    write: Write, data_file: Path, store: Store
) -> None:
    spec = write(f"{SPEC}data: {{train: no.jsonl, eval: none.jsonl, eval_fraction: 0.5, seed: 7}}\n")
    _, dataset = prepare_data(spec, data_file, store)
    assert dataset.manifest.lineage.keys() == {"train"}
    _, same = prepare_data(
        write(f"{SPEC}data: {{train: data.jsonl, eval_fraction: 0.5, seed: 7}}"), None, store
    )
    assert same == dataset


def test_a_run_without_data_is_bad_configuration(write: Write, store: Store) -> None:
    spec = write(SPEC)
    with pytest.raises(BadConfiguration, match=r"run\.yaml: names no data; .* --data FILE") as caught:
        make_plan(spec, None, store)
    assert caught.value.exit_code == 78


def test_bad_data_is_told_before_a_base_is_fetched(
    write: Write, data_file: Path, qwen_folder: Path, store: Store
) -> None:
    data_file.write_text("{\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"data\.jsonl:1: not JSON"):
        make_plan(write(f"model: {{name: {qwen_folder}}}\n"), data_file, store)
    assert not store.root.exists()


def test_a_base_without_a_chat_template_is_refused(
    base: Artifact, write: Write, data_file: Path, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for path in base.path.iterdir():
        if path.name not in ("chat_template.jinja", "manifest.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BadInput, match=r"has no chat_template\.jinja; .* instruction-tuned"):
        make_plan(write(f"model: {{name: {folder}}}\n"), data_file, store)


def test_a_template_that_writes_todays_date_is_refused(
    qwen_folder: Path, tmp_path: Path, write: Write, data_file: Path, store: Store
) -> None:
    shutil.copytree(qwen_folder, tmp_path / "dated")
    with (tmp_path / "dated" / "chat_template.jinja").open("a", encoding="utf-8") as template:
        template.write("{{ strftime_now('%d %b %Y') }}")
    with pytest.raises(BadInput, match="today's date"):
        make_plan(write("model: {name: ./dated}\n"), data_file, store)


def test_a_base_folder_is_relative_to_the_spec(
    qwen_folder: Path, tmp_path: Path, write: Write, data_file: Path, store: Store
) -> None:
    """As its data is, wherever the command is given."""
    shutil.copytree(qwen_folder, tmp_path / "mine")
    assert make_plan(write("model: {name: ./mine}\n"), data_file, store).base.manifest.id == "mine"
