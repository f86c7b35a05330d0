"""What a merge is going to be, settled and validated before torch is imported."""

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.manifest import Kind, Source
from hone_contract.probes import read_probes
from hone_contract.store import Store, run_name
from hone_merger.adapter_config import check_adapter

TOOLS = ("torch", "transformers", "peft", "bitsandbytes")
Dtype = Literal["float32", "bfloat16", "float16"]
BaseWeights = Literal["original", "dequantized", "auto"]


@dataclass(frozen=True)
class Plan:
    """A merge whose parts are all there and belong together."""

    tuned: Artifact
    """What a training made of the base: an adapter, or the weights of full fine-tuning."""
    base: Artifact
    name: str
    """The model's name, under which it is served."""
    version: str
    """The run's id, and what was asked for otherwise than by default: the same merge is the same version."""
    dtype: Dtype | None = None
    """What the model's weights are written in. None: what each is in the base."""
    base_weights: BaseWeights = "original"
    """What the adapter is added to: the base as it is, what the 4 bits of QLoRA leave of it, or whichever of
    the two is nearer to what was trained."""

    @property
    def kind(self) -> Kind:
        """`adapter` or `weights`; also the role in the model's lineage."""
        return self.tuned.manifest.kind

    @property
    def trained_on(self) -> Source:
        """The base by which the training went; another one than `base` only when that was forced."""
        return self.tuned.manifest.lineage["base"]

    @property
    def identity(self) -> dict[str, object]:
        """Whatever the bytes depend on. A killed merge is gone on with only where all of it is the same.

        The base's files by more than their digests: bytes that were read before it was repaired are not its.
        """
        files = {
            path.name: [status.st_ino, status.st_size, status.st_mtime_ns]
            for path in sorted(self.base.path.glob("*.safetensors"))
            for status in [path.stat()]
        }
        digests = {role: source.digest for role, source in self.lineage.items()}
        versions = {name: importlib.metadata.version(name) for name in (*TOOLS, "hone-merger")}
        asked = {"dtype": self.dtype, "base_weights": self.base_weights}
        return {**digests, **asked, "files": files, "tools": versions}

    @property
    def lineage(self) -> dict[str, Source]:
        return {self.kind: self.tuned.source, "base": self.base.source}


def make_plan(
    store: Store,
    run_id: str,
    name: str | None,
    *,
    dtype: Dtype | None = None,
    base_weights: BaseWeights | None = None,
    force_base: bool = False,
) -> Plan:
    """Open what the run made, reading every byte, and its base, and check that they fit.

    The base's bytes are read while it is merged, and compared before the model is sealed (`merge`).

    `base_weights` None: `auto` for what QLoRA trained, which the probes tell, else the original.
    Raises BadInput when the run started from another base than the store has, unless `force_base`;
    BadConfiguration when whole weights are to be in another number format, or the base is to go through 4
    bits and the training had it as it is.
    """
    tuned = _open_tuned(store, run_id)
    trained_on = tuned.manifest.lineage["base"]
    base = open_artifact(store.base(trained_on.id), "base")
    if base.manifest.digest != trained_on.digest and not force_base:
        raise BadInput(
            f"{run_id} was trained on another {trained_on.id} "
            f"({str(trained_on.digest)[:12]}…) than the store has ({base.manifest.digest[:12]}…); "
            "import that base, or train again; --force-base merges all the same"
        )
    if tuned.manifest.kind == "adapter":
        check_adapter(tuned.path)
    elif dtype is not None:
        raise BadConfiguration(
            f"{run_id} is whole weights, which are taken over as they are: leave out --dtype"
        )
    in_4_bits = read_probes(tuned.path).trained_in_4_bits
    if base_weights == "dequantized" and not in_4_bits:
        raise BadConfiguration(
            f"--base-weights dequantized: the probes of {run_id} do not say that it was trained in 4 bits; "
            "leave it out (an adapter that QLoRA made elsewhere: import it with --qlora)"
        )
    weights: BaseWeights = (base_weights or "auto") if in_4_bits else "original"
    asked = weights if in_4_bits and weights != "auto" else None
    version = "-".join([run_id, *filter(None, (dtype, asked))])
    return Plan(tuned, base, name or run_name(run_id), version, dtype, weights)


def _open_tuned(store: Store, run_id: str) -> Artifact:
    adapter, weights = store.adapter(run_id), store.weights(run_id)
    if adapter.exists() and weights.exists():
        raise BadConfiguration(
            f"{run_id} names two things, {adapter} and {weights}; remove the one that is not wanted"
        )
    if weights.exists():
        return open_artifact(weights, "weights", digests=True)
    return open_artifact(adapter, "adapter", digests=True)
