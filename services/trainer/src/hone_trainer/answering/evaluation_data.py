"""Which records a run is evaluated on, settled before torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import CHAT_TEMPLATE
from hone_contract.run_spec import ModelSpec, RunSpec
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.answering.lookup import Found
from hone_trainer.data.dataset import Counting, prepare
from hone_trainer.data.tokeniser import Tokeniser
from hone_trainer.record import Record, load_records, spread


@dataclass(frozen=True)
class EvaluationData:
    """Records, and where they are from."""

    dataset: Artifact
    part: str
    """`eval`: those set aside from the run's own data; `train`: all of other data."""
    records: list[Record]


def spec_of(found: Found, store: Store) -> RunSpec:
    """The run's spec; of an adapter that was made elsewhere, one with every default."""
    file = store.run(found.run_id) / "spec.yaml"
    if not file.is_file():
        return RunSpec(model=ModelSpec(name=found.base.manifest.id))
    return load_run_spec(file)


def evaluation_data(
    found: Found, spec: RunSpec, data_file: Path | None, store: Store, limit: int | None
) -> EvaluationData:
    """The run's own evaluation records, or those of another file, read as the run's data was.

    With a `limit` so many of them, evenly spread. Raises BadConfiguration or BadInput when there are none.
    """
    if data_file is None:
        dataset, part = _own(found, store), "eval"
    else:
        dataset, part = _other(found, spec, data_file, store), "train"
    records = load_records(dataset.path / f"{part}.jsonl")
    if not records:
        raise BadInput(f"run {found.run_id} set no records aside for evaluation; name some with --data FILE")
    return EvaluationData(dataset, part, spread(records, limit or len(records)))


def _own(found: Found, store: Store) -> Artifact:
    source = found.artifact.manifest.lineage.get("dataset")
    if source is None:
        raise BadConfiguration(
            f"{found.run_id} was trained elsewhere, on data that is not known; name records with --data FILE"
        )
    return open_artifact(store.dataset(source.id), "dataset")


def _other(found: Found, spec: RunSpec, data_file: Path, store: Store) -> Artifact:
    """All of a file, sealed as a dataset: bad rows are told, nothing is set aside and repeats stay."""
    whole: dict[str, Any] = {
        "train": str(data_file.absolute()),
        "eval": None,
        "sources": [],
        "total": None,
        "eval_fraction": 0.0,
        "eval_count": None,
        "min_records": 1,
        "max_records": None,
    }
    data = spec.data or DataSpec(train=str(data_file))
    whole["clean"] = data.clean.model_copy(update={"duplicates": False})
    template = (found.artifact.path / CHAT_TEMPLATE).read_text(encoding="utf-8")
    counting = Counting(Tokeniser(found.base, template), None, spec.training.max_length)
    return prepare(data.model_copy(update=whole), Path(), store, counting, Reporter("trainer"))
