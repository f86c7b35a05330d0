"""The model card says what is known, and nothing that is not."""

import json

import yaml

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.manifest import Source
from hone_contract.store import Store
from hone_merger.card import model_card
from hone_merger.plan import Plan

DISTANCES = {"mean_delta_from_adapter": 0.00123, "mean_delta_from_base": 1.5}


def plan_of(store: Store, origin: str) -> Plan:
    with draft(store.base("b"), {}) as partial:
        base = seal(partial, "base", "b", lineage={"source": Source(id=origin)})
    with draft(store.adapter("a-0123456789"), {}) as partial:
        lineage = {"base": base.source, "dataset": Source(id="d-0123456789", digest="1" * 64)}
        metrics = {"eval_loss_before": 4.117, "eval_loss_after": 0.1117, "seconds": 211.0}
        adapter: Artifact = seal(partial, "adapter", "a-0123456789", lineage=lineage, metrics=metrics)
    return Plan(adapter, base, "faq", "a-0123456789")


def metadata(card: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_it_names_what_the_model_was_made_from(store: Store) -> None:
    plan = plan_of(store, "hub:Qwen/Qwen2.5-1.5B-Instruct@989aa79#main")
    card = model_card(plan, store, DISTANCES)
    assert metadata(card) == {
        "base_model": "Qwen/Qwen2.5-1.5B-Instruct",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["hone", "lora"],
    }
    assert f"| adapter | `a-0123456789` | {plan.tuned.manifest.digest} |" in card
    assert f"| base | `b` | {plan.base.manifest.digest} |" in card
    assert f"| dataset | `d-0123456789` | {'1' * 64} |" in card
    assert "4.1170 before, 0.1117 after" in card
    assert "0.0012 away from the tuned model's and 1.5 from the base's" in card
    assert "hone-server --model faq " in card
    assert "211" not in card


def test_it_says_what_was_learned_from_when_that_is_there(store: Store) -> None:
    plan = plan_of(store, "folder:mine")
    assert "learned from" not in model_card(plan, store, DISTANCES)
    report = {"read": 310, "rejected": 2, "train_records": 264, "eval_records": 44}
    store.dataset("d-0123456789").mkdir(parents=True)
    (store.dataset("d-0123456789") / "report.json").write_text(json.dumps(report))
    card = model_card(plan, store, DISTANCES)
    assert "learned from 264 records; 44 others were set aside" in card
    assert "base_model" not in metadata(card)
