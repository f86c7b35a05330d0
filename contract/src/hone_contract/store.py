"""Where things lie in the store, the only thing that services share."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import PARTIAL, open_artifact, write_atomically
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.manifest import Kind

LIVE = "live"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def run_name(run_id: str) -> str:
    """A run's id without the digest at its end: `hone-faq-0123456789` makes `hone-faq`."""
    return re.sub(r"-[0-9a-f]{10}$", "", run_id)


def base_name(name: str) -> str:
    """A base's folder in the store: `Qwen/Qwen2.5-1.5B` lies at `Qwen--Qwen2.5-1.5B`."""
    return re.sub(r"[/:]+", "--", name)


@dataclass(frozen=True)
class Store:
    """Paths below one folder. Every name is checked, so no path can leave it."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Store":
        """The folder named by HONE_STORE, `./store` when it is unset."""
        return cls(Path(os.environ.get("HONE_STORE") or "store").expanduser())

    def base(self, name: str) -> Path:
        """A base model, by its name or what a run spec calls it."""
        return self._path("bases", base_name(name))

    def dataset(self, dataset_id: str) -> Path:
        return self._path("datasets", dataset_id)

    def run(self, run_id: str) -> Path:
        """A run's diary: spec, status, events, metrics."""
        return self._path("runs", run_id)

    def checkpoint(self, run_id: str, step: int) -> Path:
        """A run as it was after `step` optimiser steps, from which it can go on."""
        return self.run(run_id) / "checkpoints" / f"step-{step}"

    def adapter(self, run_id: str) -> Path:
        return self._path("adapters", run_id)

    def weights(self, run_id: str) -> Path:
        """What full fine-tuning made, where LoRA makes an adapter."""
        return self._path("weights", run_id)

    def tokens(self, digest: str) -> Path:
        """A dataset's tokens, kept so that they are made once; whoever needs the room may delete it."""
        return self._path("cache", "tokens", digest)

    def model(self, name: str, version: str) -> Path:
        if version == LIVE:
            raise BadConfiguration(
                f"{version!r} is no version: the file of that name says which one to serve"
            )
        return self._path("models", name, version)

    def live(self, name: str) -> Path:
        """The file that names the version of model `name` to serve."""
        return self._path("models", name) / LIVE

    def read_live(self, name: str) -> str | None:
        """The version to serve, or None when nothing was published under that name yet."""
        try:
            # A byte that is not UTF-8 becomes a character that no name has.
            version = self.live(name).read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
        if not _is_name(version):
            raise BadInput(f"{self.live(name)} names no version: {version[:80]!r}; merge the model again")
        return version

    def point_live(self, name: str, version: str) -> None:
        """Publish a sealed version; refuses one that cannot be opened."""
        open_artifact(self.model(name, version), "model")
        write_atomically(self.live(name), version + "\n")

    def published(self) -> list[str]:
        """Names of the models that have a live version, sorted."""
        return sorted(file.parent.name for file in self.root.glob(f"models/*/{LIVE}"))

    def artifacts(self, wanted: Kind | None = None) -> Iterator[tuple[Kind, Path]]:
        """Every artifact folder, sealed or not, but for partial ones. None: of every kind."""
        patterns: dict[Kind, str] = {
            "base": "bases/*",
            "dataset": "datasets/*",
            "checkpoint": "runs/*/checkpoints/step-*",
            "adapter": "adapters/*",
            "weights": "weights/*",
            "model": "models/*/*",
        }
        for kind, pattern in patterns.items():
            for path in sorted(self.root.glob(pattern)) if wanted in (None, kind) else ():
                if path.is_dir() and PARTIAL not in path.name:
                    yield kind, path

    def partials(self) -> list[Path]:
        """Folders that a writer is filling now, or left when it was killed."""
        depths = ("*", "*/*", "*/*/*")
        return sorted(path for depth in depths for path in self.root.glob(f"{depth}/*{PARTIAL}*"))

    def _path(self, *parts: str) -> Path:
        for part in parts:
            if not _is_name(part):
                raise BadConfiguration(
                    f"{part!r} is no name for the store: letters, digits, '.', '_' and '-', at most 128, "
                    "starting with a letter or digit"
                )
        return self.root.joinpath(*parts)


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and PARTIAL not in text
