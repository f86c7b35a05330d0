"""`hone-merger verify`: whether a model in the store still is what its merge proved it to be."""

from collections.abc import Mapping
from typing import Any, get_args

from hone_contract.artifact import Artifact, held, open_artifact
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.probes import mean_delta, read_probes
from hone_contract.store import Store
from hone_merger.content import plan_content
from hone_merger.plan import Dtype, Plan, make_plan
from hone_merger.report import read_report
from hone_merger.streaming import score_all, streamed

# Nats: the same weights on another processor, whose sums are rounded in another order.
_ALLOWED = 0.01


def verify(model: Artifact, store: Store, reporter: Reporter) -> Mapping[str, object]:
    """Read every byte, compute samples once more from adapter and base, and score the probes once more.

    `model` was opened with its digests compared. Where adapter or base is gone, or now another, samples are
    not computed, and the result says so. Raises BadInput when the model is not what was merged.
    """
    plan = _plan(model, store)
    with held(model.path):
        found = {"files": len(model.manifest.files), **_recompute(model, plan, reporter), **_score(model)}
    reporter.tell("verified", f"model {model.manifest.id} is what was merged", id=model.manifest.id)
    return found


def _plan(model: Artifact, store: Store) -> Plan | str:
    """That of its merge, or why the store no longer has one."""
    report = read_report(model.path)
    name = model.manifest.id.partition("/")[0]
    [run_id] = [source.id for role, source in model.manifest.lineage.items() if role != "base"]
    dtype = report["dtype"] if report["dtype"] in get_args(Dtype) else None
    try:
        plan = make_plan(
            store,
            run_id,
            name,
            dtype=dtype,
            base_weights=report["weights"].get("base_weights"),
            force_base=True,
        )
        open_artifact(plan.base.path, "base", digests=True)
    except BadConfiguration as error:
        return str(error)
    if plan.lineage != model.manifest.lineage:
        return f"{run_id} or its base in the store is not the one that the model was made from"
    return plan


def _recompute(model: Artifact, plan: Plan | str, reporter: Reporter) -> Mapping[str, object]:
    if isinstance(plan, str):
        reporter.tell("not_recomputed", f"not recomputed from adapter and base: {plan}", level="warning")
        return {"not_recomputed": plan}
    if plan.kind == "weights":
        return _compare(model, plan.tuned)
    with held(plan.base.path), held(plan.tuned.path):
        return plan_content(plan, reporter).check(model.path)


def _compare(model: Artifact, weights: Artifact) -> Mapping[str, object]:
    """Whole weights were taken over byte for byte; the bytes of both were compared with these digests."""
    ours, theirs = (
        {entry.path: entry.sha256 for entry in each.manifest.files if entry.path.endswith(".safetensors")}
        for each in (model, weights)
    )
    if ours != theirs:
        raise BadInput(f"{model.path}: its weights are not those of {weights.path}")
    return {"compared": len(ours)}


def _score(model: Artifact) -> Mapping[str, object]:
    probes = read_probes(model.path)
    recorded: Any = [probe.merged for probe in probes.probes]
    distance = mean_delta(score_all(streamed(model.path), probes.texts), recorded)
    if not distance <= _ALLOWED:
        raise BadInput(
            f"{model.path}: its logprobs on the probes are {distance:.4f} away from those that its merge "
            f"recorded (allowed: {_ALLOWED}), though its bytes are the same; this machine computes "
            "otherwise, or another version of transformers does"
        )
    return {"probes": len(probes.probes), "mean_delta_from_recorded": distance}
