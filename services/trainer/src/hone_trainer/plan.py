"""What a run is going to be, settled and validated before torch is imported."""

from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import Artifact
from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.manifest import Source, digest_of
from hone_contract.model_files import CHAT_TEMPLATE, sha256_of
from hone_contract.run_spec import RunSpec
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.base import BaseSource, import_base, is_folder, locate
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
    source = _locate(spec, spec_file)
    spec, dataset = prepare_data(spec_file, data_file, store)
    base = import_base(source, store)
    _check_template(base)
    identity = {
        "version": _VERSION,
        "spec": _spec_digest(spec),
        "base": base.manifest.digest,
        "dataset": dataset.manifest.digest,
    }
    return Plan(spec, base, dataset, f"{spec.title}-{digest_of(identity)[:10]}")


def _locate(spec: RunSpec, spec_file: Path) -> BaseSource:
    """A folder is relative to the spec, as the data is."""
    name = spec.model.name
    if is_folder(name):
        name = str((spec_file.parent / Path(name).expanduser()).absolute())
    try:
        return locate(name, spec.model.revision)
    except BadConfiguration as error:
        raise BadConfiguration(f"{spec_file}: {error}") from error


def _check_template(base: Artifact) -> None:
    """Raises BadInput when the base has no chat template, or one that writes today's date."""
    sha256_of(base.path, CHAT_TEMPLATE)
    if "strftime_now" in (base.path / CHAT_TEMPLATE).read_text(encoding="utf-8"):
        raise BadInput(
            f"the chat template of {base.manifest.id} writes today's date into every prompt, so what is "
            "served tomorrow would not be what was trained; replace strftime_now by a fixed date in a copy "
            "of the base, and import that folder under another --name"
        )


def _spec_digest(spec: RunSpec) -> str:
    # Without defaults, so that a field added to the spec does not give every old run another id.
    return digest_of(spec.model_dump(mode="json", exclude={"data"}, exclude_defaults=True))
