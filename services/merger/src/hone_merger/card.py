"""README.md of a model or an adapter: the card that the Hub shows, and whoever finds the folder reads.

Its first lines are the Hub's metadata (https://huggingface.co/docs/hub/model-cards).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hone_contract.errors import HoneError
from hone_contract.hub import hub_repository
from hone_contract.manifest import Source
from hone_contract.store import Store
from hone_merger.plan import Plan

FILE_NAME = "README.md"
# What vLLM's --max-lora-rank may be, from its default on (vllm/config/lora.py).
_SERVED_RANKS = (16, 32, 64, 128, 256, 320, 512)
# What vLLM refuses to load beside a base (vllm/lora/peft_helper.py).
_NOT_SERVED = ("use_dora", "modules_to_save", "lora_bias")


def model_card(plan: Plan, store: Store, distances: Mapping[str, float]) -> str:
    """What it was made from, what it learned from, what was checked, and how to serve it.

    `distances` are mean absolute differences of logprobs on the probes, in nats.
    """
    return "\n".join(
        [
            *_metadata(plan),
            f"# {plan.name}",
            "",
            _made(plan),
            "",
            *_lineage(plan),
            *_data(plan, store),
            *_learned(plan.tuned.manifest.metrics),
            *_checked(distances),
            *_serving(plan),
        ]
    )


def adapter_card(plan: Plan, store: Store, config: Mapping[str, Any]) -> str:
    """The same of an adapter that is published without its base; `config` is its adapter_config.json."""
    return "\n".join(
        [
            *_metadata(plan, "peft"),
            f"# {plan.name}",
            "",
            "A LoRA adapter made with Hone. It works on the base that it was trained on, and no other.",
            "",
            *_lineage(plan),
            *_data(plan, store),
            *_learned(plan.tuned.manifest.metrics),
            *_beside_its_base(plan, config),
        ]
    )


def _metadata(plan: Plan, library: str = "transformers") -> Iterator[str]:
    yield "---"
    if (hub := _hub_name(plan)) is not None:
        yield f"base_model: {json.dumps(hub)}"
    yield f"library_name: {library}"
    yield "pipeline_tag: text-generation"
    yield f"tags: [hone, {'lora' if plan.kind == 'adapter' else 'full-fine-tuning'}]"
    yield "---"


def _hub_name(plan: Plan) -> str | None:
    """None: the base does not come from the Hub."""
    return hub_repository(plan.base.manifest.lineage.get("source", Source(id="")).id)


def _made(plan: Plan) -> str:
    how = "a LoRA adapter fused into its base" if plan.kind == "adapter" else "fine-tuned as a whole"
    return f"A model made with Hone: {how}, and compared with the tuned model before it was published."


def _lineage(plan: Plan) -> Iterator[str]:
    yield "| made from | | digest |"
    yield "|---|---|---|"
    origin = plan.base.manifest.lineage.get("source")
    sources = {**plan.lineage, **({"base's origin": origin} if origin is not None else {})}
    sources |= {role: each for role, each in plan.tuned.manifest.lineage.items() if role != "base"}
    for role, source in sources.items():
        yield f"| {role} | `{source.id}` | {source.digest or ''} |"
    yield ""


def _data(plan: Plan, store: Store) -> Iterator[str]:
    """Nothing for an adapter from elsewhere, or when the dataset is no longer in the store."""
    source = plan.tuned.manifest.lineage.get("dataset")
    if source is None:
        return
    try:
        report = json.loads((store.dataset(source.id) / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, HoneError):
        return
    yield (
        f"It learned from {report['train_records']} records; {report['eval_records']} others were set aside "
        f"for evaluation. Of {report['read']} rows that were read, {report['rejected']} were rejected."
    )
    yield ""


def _learned(metrics: Mapping[str, float]) -> Iterator[str]:
    if "eval_loss_before" in metrics and "eval_loss_after" in metrics:
        yield (
            f"Loss on the evaluation records (nats a token): {metrics['eval_loss_before']:.4f} before, "
            f"{metrics['eval_loss_after']:.4f} after."
        )
        yield ""


def _checked(distances: Mapping[str, float]) -> Iterator[str]:
    yield (
        "On recorded prompts its log probabilities are "
        f"{distances['mean_delta_from_adapter']:.2g} away from the tuned model's and "
        f"{distances['mean_delta_from_base']:.2g} from the base's, on average; see merge_report.json."
    )
    yield ""


def _serving(plan: Plan) -> Iterator[str]:
    yield "```sh"
    yield f"hone-server --model {plan.name}     # from the store, behind a check of these log probabilities"
    yield f"vllm serve ./ --served-model-name {plan.name}     # from this folder"
    yield "```"
    yield ""


def _beside_its_base(plan: Plan, config: Mapping[str, Any]) -> Iterator[str]:
    base = _hub_name(plan)
    if base is None:
        base = f"./{plan.base.manifest.id}"
        yield f"The base is not on the Hub; `{base}` stands for the folder that has it."
        yield ""
    yield "```python"
    yield "from peft import PeftModel"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base)})"
    yield 'model = PeftModel.from_pretrained(base, "./")  # this folder'
    yield 'tokenizer = AutoTokenizer.from_pretrained("./")'
    yield "```"
    yield ""
    rank = _served_rank(config)
    if rank is None:
        yield "vLLM does not load an adapter of this kind; it serves what `hone-merger merge` makes of it."
    else:
        option = "" if rank == _SERVED_RANKS[0] else f" --max-lora-rank {rank}"
        yield "```sh"
        yield f"vllm serve {base} --enable-lora --lora-modules {plan.name}=./{option}"
        yield "```"
    yield ""


def _served_rank(config: Mapping[str, Any]) -> int | None:
    """The least that vLLM must be told; None when it does not load such an adapter."""
    if any(config.get(key) for key in _NOT_SERVED):
        return None
    ranks = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    return next((rank for rank in _SERVED_RANKS if rank >= max(ranks)), None)
