"""The Python of a fine-tuning guide runs as it shows it, with a small model and Hone's module.

`guides/*.py.txt` hold its three blocks unchanged. They are one script, in which nothing is guarded by
`if __name__ == "__main__"`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hone_contract.artifact import open_artifact
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.record import load_records

pytestmark = pytest.mark.chain

GUIDES = Path(__file__).parent / "guides"
BLOCKS = ("fine_tune", "prompt_template", "generate_text")
THEIR_MODEL, THEIR_MODULE = "Qwen/Qwen2-7B-Instruct", "finetune.utils"
DATA = "path/to/your/dataset.json"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOPICS = "微调 适配器 分词器 量化 注意力 梯度 损失 学习率 批量 检查点".split()
WORDS = "参数 秩 词表 比特 权重 方向 误差 步长 样本 恢复".split()
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _blocks() -> list[str]:
    return [(GUIDES / f"{name}.py.txt").read_text(encoding="utf-8") for name in BLOCKS]


def _save_model(folder: Path) -> None:
    """Random weights, and a token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({token: number for number, token in enumerate([*SPECIAL, *letters])}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token=SPECIAL[2], pad_token=SPECIAL[0], chat_template=CHATML
    ).save_pretrained(folder)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokens.get_vocab()), **shape, **ends)).save_pretrained(folder)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The folder in which the guide's script ran, and the lines that it printed."""
    folder = tmp_path_factory.mktemp("guide")
    _save_model(folder / "Qwen2")
    records = [
        {"domain": "人工智能", "instruction": f"解释{topic}的概念。", "response": f"{topic}{word}" * 9}
        for topic, word in zip(TOPICS, WORDS, strict=True)
    ]
    (folder / DATA).parent.mkdir(parents=True)
    (folder / DATA).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    script = (
        "\n".join(_blocks()).replace(THEIR_MODULE, "hone_trainer.finetuning").replace(THEIR_MODEL, "./Qwen2")
    )
    (folder / "guide.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "guide.py"],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    yield folder, done.stdout.splitlines()


def test_the_blocks_are_the_guides_own() -> None:
    fine_tune, template, generate = _blocks()
    assert fine_tune.startswith(f"from {THEIR_MODULE} import FineTuningConfig, run_fine_tuning\n")
    assert f'model_name="{THEIR_MODEL}",  # 要微调的基础模型' in fine_tune
    assert (GUIDES / "template.txt").read_text(encoding="utf-8") in template
    assert 'FineTuningConfig(model_name="./results/final_model")' in generate


def test_the_script_says_where_the_model_is_and_what_it_says(ran: tuple[Path, list[str]]) -> None:
    folder, printed = ran
    assert printed[0] == "微调后的模型保存在：results/final_model"
    assert open_artifact(folder / "results" / "final_model", "adapter", digests=True)
    assert any(line.strip() for line in printed[1:])


def test_each_of_its_runs_is_in_the_store_as_it_was_asked_for(ran: tuple[Path, list[str]]) -> None:
    folder, _ = ran
    store = Store(folder / "results" / "store")
    specs = [load_run_spec(path) for path in store.root.glob("runs/*/spec.yaml")]
    assert len(specs) == 2
    for spec in specs:
        assert (spec.lora.r, spec.training.batch_size, spec.training.epochs) == (16, 4, 3)
        assert (spec.training.learning_rate, spec.training.max_length) == (2e-4, 2048)
        assert spec.data is not None
        assert spec.data.eval_fraction == 0.1
    template = (GUIDES / "template.txt").read_text(encoding="utf-8")
    assert {spec.data.format for spec in specs if spec.data} == {None, template}


def test_its_template_and_the_field_that_it_adds_are_what_was_learned(ran: tuple[Path, list[str]]) -> None:
    folder, _ = ran
    final = open_artifact(folder / "results" / "final_model", "adapter")
    dataset = Store(folder / "results" / "store").dataset(final.manifest.lineage["dataset"].id)
    records = load_records(dataset / "train.jsonl")
    assert len(records) + len(load_records(dataset / "eval.jsonl")) == len(TOPICS)
    for record in records:
        assert record.text is not None
        assert record.text.startswith(
            "<|im_start|>system\n您是一位专注于人工智能领域的 AI 助手。<|im_end|>\n"
        )
