"""`hone-merger merge`: fuse or take over, write, read back what was written, prove it, seal."""

import importlib.metadata
import shutil
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import TOKENIZER_FILES
from hone_contract.probes import Logprobs, Probes, read_probes, write_probes
from hone_contract.store import Store
from hone_merger.fuse import fuse, load_model
from hone_merger.plan import Plan
from hone_merger.scoring import score
from hone_merger.weights import copy_weights, fit_weights

_SHARD = "5GB"
_TOOLS = ("torch", "transformers", "peft")


def merge(plan: Plan, store: Store, reporter: Reporter) -> Artifact:
    """Write the tuned model as `models/<name>/<version>` and seal it.

    Raises BadInput when the written model is not nearer to the tuned model than to the base.
    """
    start = time.monotonic()
    with draft(store.model(plan.name, plan.version), {plan.kind: plan.tuned.manifest.digest}) as partial:
        reporter.tell("merging", _intention(plan))
        _write_model(plan, partial)
        copy_tokenizer(plan.tuned.path, partial)
        probes = _prove(partial, read_probes(plan.tuned.path))
        write_probes(partial, probes)
        metrics = {**_distances(probes), "seconds": time.monotonic() - start}
        model = seal(
            partial,
            "model",
            f"{plan.name}/{plan.version}",
            lineage=plan.lineage,
            tools={name: importlib.metadata.version(name) for name in _TOOLS},
            metrics=metrics,
        )
    reporter.tell("merged", f"model {model.manifest.id} in {metrics['seconds']:.0f} s", metrics={**metrics})
    return model


def _intention(plan: Plan) -> str:
    tuned, base = plan.tuned.manifest.id, plan.base.manifest.id
    if plan.kind == "weights":
        return f"taking over {tuned}, trained from {base}"
    return f"fusing {tuned} into {base}"


def _write_model(plan: Plan, folder: Path) -> None:
    """Weights, config and generation config."""
    base, tuned = plan.base.path, plan.tuned.path
    taken_over = plan.kind == "weights"
    model = fit_weights(tuned, base) if taken_over else fuse(base, tuned)
    generation = end_tokens(model, base)
    if taken_over:
        copy_weights(tuned, folder)
        model.config.save_pretrained(folder)
    else:
        # transformers refuses to write some settings that bases have (a temperature without do_sample).
        model.generation_config = GenerationConfig()
        model.save_pretrained(folder, max_shard_size=_SHARD)
    generation.to_json_file(folder / "generation_config.json")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Byte for byte: text must become the same tokens in the server as in the trainer."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def end_tokens(model: Any, base: Path) -> GenerationConfig:
    """The base's generation config, ending at every token that either it or the model config ends at."""
    config: GenerationConfig = model.generation_config
    named = [config.eos_token_id, model.config.eos_token_id]
    if (base / "generation_config.json").is_file():
        named.append(GenerationConfig.from_pretrained(base).eos_token_id)
    lists = (each if isinstance(each, list) else [each] for each in named if each is not None)
    ids = sorted(set(chain.from_iterable(lists)))
    config.eos_token_id = ids if len(ids) > 1 else next(iter(ids), None)
    return config


def _prove(folder: Path, probes: Probes) -> Probes:
    """Add what the model as written makes of the probes, in float32."""
    model = load_model(folder, torch.float32)
    proven = [
        probe.model_copy(
            update={"merged": score(model, probe.prompt_token_ids, probe.continuation_token_ids)}
        )
        for probe in probes.probes
    ]
    result = probes.model_copy(update={"probes": proven})
    distances = _distances(result)
    if distances["mean_delta_from_adapter"] >= distances["mean_delta_from_base"]:
        raise BadInput(
            "the merged model is not the tuned model: its logprobs are "
            f"{distances['mean_delta_from_adapter']:.4f} away from the tuned model's and "
            f"{distances['mean_delta_from_base']:.4f} from the base's; nothing was published"
        )
    return result


def _distances(probes: Probes) -> dict[str, float]:
    """Mean |difference| of logprobs over all continuation tokens.

    The tuned model goes by the name of adapter, whatever made it, as in the probes.
    """
    return {
        "mean_delta_from_adapter": _mean_delta([(p.merged or [], p.adapter) for p in probes.probes]),
        "mean_delta_from_base": _mean_delta([(p.merged or [], p.base) for p in probes.probes]),
    }


def _mean_delta(pairs: list[tuple[Logprobs, Logprobs]]) -> float:
    deltas = [abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True)]
    return sum(deltas) / max(1, len(deltas))
