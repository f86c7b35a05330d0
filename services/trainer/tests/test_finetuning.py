"""Fine-tuning from Python: the settings become a run spec, and what comes out is opened again."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from trainer_sealed import merge, sealed_run
from trainer_tiny import bytes_of, questions, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone_contract.artifact import open_artifact
from hone_contract.errors import (
    ArtifactExists,
    ArtifactMissing,
    BadConfiguration,
    BadInput,
)
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.finetuning import (
    FineTuningConfig,
    generate_text,
    load_model_and_tokenizer,
    run_fine_tuning,
)

pytestmark = pytest.mark.chain

SKY = "What is the colour of thing 7?"


def config(model: Path, folder: Path, **settings: Any) -> FineTuningConfig:
    """Learns what `questions` teach in a second."""
    learning = {"num_train_epochs": 4, "learning_rate": 1e-2, "max_seq_length": 128}
    return FineTuningConfig(model_name=str(model), output_dir=folder / "results", **(learning | settings))


def test_what_was_learned_is_said(llama_folder: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data.jsonl", questions(24))
    asked = config(llama_folder, tmp_path)
    path = run_fine_tuning(data, asked, train_test_split=0.25)
    assert path == str(tmp_path / "results" / "final_model")
    model, tokenizer = load_model_and_tokenizer(FineTuningConfig(model_name=path))
    assert not model.training
    assert generate_text(model, tokenizer, SKY, max_new_tokens=12) == "The sky is blue."
    untuned, tokenizer = load_model_and_tokenizer(asked)
    assert generate_text(untuned, tokenizer, SKY, max_new_tokens=12) != "The sky is blue."
    # The same run is trained once, and its folder is what it was.
    before, inode = bytes_of(Path(path)), (tmp_path / "results" / "store" / "runs").stat().st_mtime_ns
    assert run_fine_tuning(data, asked, train_test_split=0.25) == path
    assert bytes_of(Path(path)) == before
    assert (tmp_path / "results" / "store" / "runs").stat().st_mtime_ns == inode
    _check_folder(Path(path), llama_folder)


def _check_folder(final: Path, base: Path) -> None:
    """A sealed artifact of plain files, which PEFT and transformers open without Hone."""
    sealed = open_artifact(final, "adapter", digests=True)
    original = Store(final.parent / "store").adapter(sealed.manifest.id)
    assert bytes_of(original) == bytes_of(final)
    assert not any(path.is_symlink() for path in final.rglob("*"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), final).eval()
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert generate_text(model, tokenizer, SKY, max_new_tokens=12) == "The sky is blue."


def spec_of(folder: Path, model: Path, template: str | None = None, **settings: Any) -> Any:
    """The run spec that the settings make; it is written before the data is looked at."""
    with pytest.raises(BadConfiguration, match="there is no such file"):
        run_fine_tuning(folder / "none.jsonl", config(model, folder, **settings), 0.2, template)
    return load_run_spec(folder / "results" / "run.yaml")


def test_every_setting_reaches_the_run_spec(llama_folder: Path, tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        llama_folder,
        "{instruction}: {response}",
        max_seq_length=1024,
        lora_r=64,
        lora_alpha=128,
        lora_dropout=0.05,
        load_in_4bit=True,
        batch_size=2,
        gradient_accumulation_steps=8,
        num_train_epochs=2,
        learning_rate=1e-4,
        warmup_steps=0.1,
        weight_decay=0.01,
        seed=7,
        save_steps=50,
        eval_steps=25,
        logging_steps=10,
        bf16=True,
        wandb_run_name="My Run!",
    )
    assert (spec.model.name, spec.name, spec.method) == (str(llama_folder), "my-run", "qlora")
    assert (spec.lora.r, spec.lora.alpha, spec.lora.dropout) == (64, 128, 0.05)
    assert spec.data.train == str(tmp_path / "none.jsonl")
    assert (spec.data.eval_fraction, spec.data.format) == (0.2, "{instruction}: {response}")
    told = spec.training.model_dump(exclude_defaults=True)
    assert told == {
        "epochs": 2,
        "batch_size": 2,
        "gradient_accumulation_steps": 8,
        "learning_rate": 1e-4,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "max_length": 1024,
        "dtype": "bfloat16",
        "eval_steps": 25,
        "seed": 7,
    }
    assert spec.checkpoints.save_steps == 50


def test_what_is_not_set_is_what_a_spec_means_that_does_not_say_it(
    llama_folder: Path, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, llama_folder, num_train_epochs=3, learning_rate=2e-4, max_seq_length=2048)
    assert set(spec.model_dump(exclude_defaults=True)) == {"model", "data"}


def test_a_model_is_relative_to_where_the_script_runs(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").symlink_to(llama_folder)
    monkeypatch.chdir(tmp_path)
    assert spec_of(tmp_path, Path("mine")).model.name == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("settings", "split", "told"),
    [
        ({"fp16": True, "bf16": True}, 0.1, "fp16 and bf16 are two number formats"),
        ({"lora_r": 0}, 0.1, "LoraSpec: r: Input should be greater than or equal to 1"),
        ({"learning_rate": -1.0}, 0.1, "TrainingSpec: learning_rate: Input should be greater than 0"),
        ({}, 1.5, "DataSpec: eval_fraction: Input should be less than 1"),
        ({"wandb_run_name": "!"}, 0.1, "RunSpec: name: String should match pattern"),
        ({"use_wandb": True}, 0.1, "wandb is not installed here"),
        ({"model_name": "no-such-model"}, 0.1, "'no-such-model' is no base"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(
    settings: dict[str, Any], split: float, told: str, llama_folder: Path, tmp_path: Path
) -> None:
    data = write_lines(tmp_path / "data.jsonl", questions(4))
    asked = config(llama_folder, tmp_path)
    for name, value in settings.items():
        setattr(asked, name, value)
    with pytest.raises(BadConfiguration, match=told):
        run_fine_tuning(data, asked, split)
    assert not (tmp_path / "results" / "store").exists()


def test_a_folder_that_no_run_wrote_is_not_replaced(llama_folder: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data.jsonl", questions(4))
    (tmp_path / "results" / "final_model").mkdir(parents=True)
    (tmp_path / "results" / "final_model" / "mine").write_text("", encoding="utf-8")
    with pytest.raises(ArtifactExists, match="no run of Hone wrote it"):
        run_fine_tuning(data, config(llama_folder, tmp_path))
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["final_model"]


def test_the_base_is_looked_for_beside_the_folder_and_in_the_store(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sealed_run(tmp_path, llama_folder, questions(4))
    away = tmp_path / "away" / "final_model"
    away.parent.mkdir()
    run.artifact.path.rename(away)
    monkeypatch.setenv("HONE_STORE", str(tmp_path / "store"))
    model, _ = load_model_and_tokenizer(FineTuningConfig(model_name=str(away)))
    assert isinstance(model, PeftModel)
    monkeypatch.setenv("HONE_STORE", str(tmp_path / "none"))
    with pytest.raises(ArtifactMissing, match="was trained on tiny-llama, which is not in"):
        load_model_and_tokenizer(FineTuningConfig(model_name=str(away)))


def test_a_folder_of_another_kind_is_not_taken_for_an_adapter(llama_folder: Path, tmp_path: Path) -> None:
    run = sealed_run(tmp_path, llama_folder, questions(4))
    model = merge(run, Store(tmp_path / "store"))
    with pytest.raises(BadInput, match="holds a model, not a adapter"):
        load_model_and_tokenizer(FineTuningConfig(model_name=str(model.path)))


def test_the_number_format_is_the_one_that_is_asked_for(llama_folder: Path, tmp_path: Path) -> None:
    asked = FineTuningConfig(model_name=str(llama_folder), output_dir=tmp_path, bf16=True)
    model, _ = load_model_and_tokenizer(asked)
    assert model.dtype is torch.bfloat16


def test_a_text_is_asked_or_continued(llama_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(FineTuningConfig(str(llama_folder), output_dir=tmp_path))

    def said(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        output = model.generate(**ids, max_new_tokens=8, do_sample=False)
        return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    def ours(**more: Any) -> str:
        return generate_text(model, tokenizer, "Hi?", max_new_tokens=8, **more)

    turn = "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    assert ours() == said(turn)
    assert ours(system="Be kind.") == said("<|im_start|>system\nBe kind.<|im_end|>\n" + turn)
    assert ours(chat=False) == said("Hi?")
    assert len({ours(), ours(system="Be kind."), ours(chat=False)}) == 3
    assert ours(temperature=1.5, seed=3) == ours(temperature=1.5, seed=3) != ours()
    with pytest.raises(BadConfiguration, match="at temperature 0 none is"):
        ours(top_p=0.5)
    tokenizer.chat_template = None
    with pytest.raises(BadConfiguration, match="pass chat=False"):
        ours()


def test_it_may_be_called_in_a_thread(llama_folder: Path, tmp_path: Path) -> None:
    """Where no signal can be handled."""
    data = write_lines(tmp_path / "data.jsonl", questions(6))
    found: list[str] = []
    settings = config(llama_folder, tmp_path, num_train_epochs=1)
    thread = threading.Thread(target=lambda: found.append(run_fine_tuning(data, settings)))
    thread.start()
    thread.join()
    assert [Path(path).name for path in found] == ["final_model"]


_SCRIPT = """
import sys
from hone_trainer.finetuning import FineTuningConfig, run_fine_tuning
print([name for name in ("torch", "transformers", "peft") if name in sys.modules], flush=True)

import hone_trainer.data.lengths, hone_trainer.data.sources, hone_trainer.training.tokens
hone_trainer.data.lengths._WORTH_PROCESSES = 1
hone_trainer.data.sources._LARGE = 1
hone_trainer.training.tokens._WORTH_PROCESSES = 1

config = FineTuningConfig(model_name=sys.argv[1], num_train_epochs=1, max_seq_length=128)
print(run_fine_tuning("data.jsonl", config))
"""


def test_a_script_needs_no_guard_however_large_its_data_is(llama_folder: Path, tmp_path: Path) -> None:
    """Each other process would begin with the script itself, and run it again."""
    write_lines(tmp_path / "data.jsonl", questions(6))
    (tmp_path / "script.py").write_text(_SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py", str(llama_folder)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "results/final_model"]
