"""What a run is going to be, settled and validated before torch is imported."""

from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import Artifact
from hone_contract.errors import BadConfiguration
from hone_contract.manifest import Source, digest_of
from hone_contract.model_files import CHAT_TEMPLATE, sha256_of
from hone_contract.run_spec import DataSpec, RunSpec
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.base import import_base, locate
from hone_trainer.dataset import prepare

# Part of every run's id: raise it when the same spec would train something else.
_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """A run whose parts are all there."""

    spec: RunSpec
    base: Artifact
    dataset: Artifact
    run_id: str
    """Made from what the run is, so that the same run is never trained twice."""

    @property
    def lineage(self) -> dict[str, Source]:
        return {
            "base": self.base.source,
            "dataset": self.dataset.source,
            "spec": Source(id=self.run_id, digest=_spec_digest(self.spec)),
        }


def prepare_data(spec_file: Path, data_file: Path | None, store: Store) -> tuple[RunSpec, Artifact]:
    """Read the spec, then validate and seal its data; `data_file` stands in for `data.train`."""
    spec = load_run_spec(spec_file)
    if data_file is not None:
        # Its own evaluation file would not fit other data, so a part of the data is set aside.
        data, folder = DataSpec(train=str(data_file.absolute())), Path()
        if spec.data is not None:
            data = spec.data.model_copy(update={"train": data.train, "eval": None})
    elif spec.data is not None:
        data, folder = spec.data, spec_file.parent
    else:
        raise BadConfiguration(f"{spec_file}: names no data; add `data: FILE` to it, or give --data FILE")
    return spec, prepare(data, folder, store)


def make_plan(spec_file: Path, data_file: Path | None, store: Store) -> Plan:
    """Everything that a run needs, from its spec; fetches the base when the store lacks it.

    Raises BadConfiguration or BadInput for the first thing that is wrong.
    """
    spec = load_run_spec(spec_file)
    source = locate(spec.model.name, spec.model.revision)
    spec, dataset = prepare_data(spec_file, data_file, store)
    base = import_base(source, store)
    sha256_of(base.path, CHAT_TEMPLATE)
    identity = {
        "version": _VERSION,
        "spec": _spec_digest(spec),
        "base": base.manifest.digest,
        "dataset": dataset.manifest.digest,
    }
    return Plan(spec, base, dataset, f"{spec.title}-{digest_of(identity)[:10]}")


def _spec_digest(spec: RunSpec) -> str:
    # Without defaults, so that a field added to the spec does not give every old run another id.
    return digest_of(spec.model_dump(mode="json", exclude={"data"}, exclude_defaults=True))
