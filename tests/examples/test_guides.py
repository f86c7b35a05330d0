"""The data of five fine-tuning guides, as they show it, becomes what they say it is.

`guides` holds their blocks unchanged. Two of them show no table and say only which columns it has;
`outfits.csv` and `domains.csv` have those.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hone_contract.artifact import Artifact
from hone_contract.errors import BadInput
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.plan import prepare_data
from tests.examples.product import ROOT

GUIDES = Path(__file__).parent / "guides"
TEMPLATE = (GUIDES / "template.txt").read_text(encoding="utf-8")
Record = dict[str, Any]


def _prepare(folder: Path, name: str, **data: Any) -> Artifact:
    """A guide's file, copied as `name`; its one record is to be learned."""
    if not (folder / name).exists():
        shutil.copy(GUIDES / name, folder / name)
    model = {"name": "Qwen/Qwen2.5-1.5B-Instruct"}
    spec = {"model": model, "data": {"train": name, "eval_fraction": 0, **data}}
    (folder / "run.json").write_text(json.dumps(spec), encoding="utf-8")
    return prepare_data(folder / "run.json", None, Store(folder / "store"))[1]


def _records(dataset: Artifact) -> list[Record]:
    return [
        json.loads(line) for line in (dataset.path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def _said(dataset: Artifact) -> list[list[str]]:
    return [[message["content"] for message in record["messages"]] for record in _records(dataset)]


def test_the_lines_of_a_mix(tmp_path: Path) -> None:
    join = "{instruction}\n\n补充信息：{input}"
    dataset = _prepare(tmp_path, "mix.jsonl", system="你是一位跨领域专家。", join=join)
    assert _said(dataset) == [
        [
            "你是一位跨领域专家。",
            "解释什么是LoRA微调",
            "LoRA（Low-Rank Adaptation）是一种参数高效微调方法...",
        ],
        ["你是一位跨领域专家。", "总结以下内容\n\n补充信息：这里是补充信息...", "总结如下：..."],
    ]


SPREAD = {
    "alpaca.json": ["将以下句子翻译成英文\n\n今天天气很好", "The weather is nice today"],
    "sharegpt.json": ["你好", "你好！有什么可以帮你的吗？"],
    "response.json": [
        "解释微调的概念。",
        "微调是指在预训练模型的基础上，使用特定数据集进一步训练，使其适应特定任务或领域的过程。",
    ],
    "messages.json": ["如何查询用户余额？", "请调用 getUserBalance(userId) 接口。"],
}


@pytest.mark.parametrize("name", SPREAD)
def test_a_record_over_several_lines_is_read_from_a_json_file(name: str, tmp_path: Path) -> None:
    dataset = _prepare(tmp_path, name)
    assert _said(dataset) == [SPREAD[name]]
    [record] = _records(dataset)
    # The block that is called JSONL begins with an empty line.
    assert record["source"] == f"{name}:{2 if name == 'messages.json' else 1}"
    report = json.loads((dataset.path / "report.json").read_bytes())
    assert report["sources"][0]["unused_fields"] == {}


@pytest.mark.parametrize("name", SPREAD)
def test_under_the_name_jsonl_it_is_refused_with_its_line_and_the_remedy(name: str, tmp_path: Path) -> None:
    lines = Path(name).with_suffix(".jsonl").name
    shutil.copy(GUIDES / name, tmp_path / lines)
    with pytest.raises(BadInput) as refused:
        _prepare(tmp_path, lines)
    first = 2 if name == "messages.json" else 1
    told = str(refused.value)
    assert f"{lines}:{first}: not JSON at column 2" in told
    assert "a record stands on one line: join its lines, or rename the file to .json" in told
    assert not list((tmp_path / "store").rglob("train.jsonl"))


def test_joined_lines_are_read_from_a_jsonl_file(tmp_path: Path) -> None:
    records = [json.loads((GUIDES / name).read_text(encoding="utf-8")) for name in SPREAD]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (tmp_path / "all.jsonl").write_text(lines, encoding="utf-8")
    assert _said(_prepare(tmp_path, "all.jsonl")) == list(SPREAD.values())


def test_a_template_of_the_users_is_a_format(tmp_path: Path) -> None:
    dataset = _prepare(tmp_path, "domains.csv", format=TEMPLATE)
    [record] = _records(dataset)
    answer = SPREAD["response.json"][1]
    assert record["text"] == (
        "<|im_start|>system\n您是一位专注于人工智能领域的 AI 助手。<|im_end|>\n"
        "<|im_start|>user\n解释微调的概念。<|im_end|>\n"
        f"<|im_start|>assistant\n{answer}<|im_end|>"
    )
    [[start, end]] = record["trained"]
    assert record["text"][start:end] == f"{answer}<|im_end|>"


def test_a_template_asks_for_a_field_that_the_record_of_the_same_guide_lacks(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"response.json:1: has no column 'domain'; it has instruction, response"
    ):
        _prepare(tmp_path, "response.json", format=TEMPLATE)


@pytest.mark.parametrize("name", ["outfits.csv", "domains.csv"])
def test_a_table_of_pairs_is_read_by_its_columns(name: str, tmp_path: Path) -> None:
    fashion = load_run_spec(ROOT / "examples" / "fashion-style" / "run.yaml").data
    assert fashion is not None
    if name == "outfits.csv":
        dataset = _prepare(tmp_path, name, columns=fashion.columns)
        [[asked, answered]] = _said(dataset)
        assert asked.endswith(
            "### Input:\nI am tall, with broad shoulders, and like a classic style.\n\n"
            "### Context:\nA job interview"
        )
        assert answered == "Outfit 1: a navy suit, a white shirt, and brown shoes."
    else:
        assert _said(_prepare(tmp_path, name)) == [SPREAD["response.json"]]


def test_the_guides_files_are_as_the_guides_show_them() -> None:
    assert re.findall(r"\{(\w+)\}", TEMPLATE) == ["domain", "instruction", "response"]
    assert TEMPLATE.endswith("{response}<|im_end|>")
    assert (GUIDES / "messages.json").read_bytes().startswith(b"\n{\n")
