"""`hone-trainer import-base`: a base model becomes a sealed folder of safetensors, whatever it was.

Nothing that could run code is taken over: no `auto_map`, no pickle, no Python file.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.errors import ArtifactExists, BadConfiguration, BadInput
from hone_contract.manifest import Source, digest_of
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_FILES, sha256_of
from hone_contract.store import Store

DEMO = "demo:smollm2-135m-instruct"
WANTED = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    "*.safetensors",
    "*.safetensors.index.json",
)


@dataclass(frozen=True)
class BaseSource:
    """Where a base is to come from, and the name that it gets in the store."""

    location: str
    name: str
    fetch: Callable[[Path], Source]
    """Fills a folder and says where its files came from."""
    made: Callable[[Source], bool]
    """Whether a base that the store has under this name is the one asked for."""

    @property
    def is_remote(self) -> bool:
        """Whether it would have to be downloaded."""
        return not (is_folder(self.location) or self.location.startswith("demo:"))


def locate(location: str, revision: str | None, name: str | None = None) -> BaseSource:
    """Tell a demo model, a folder and a Hub id apart.

    Raises BadConfiguration when it is none of them, or a folder that does not exist.
    """
    if location.startswith("demo:"):
        return _demo(location, name)
    if is_folder(location):
        return _folder(location, name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", location):
        raise BadConfiguration(
            f"model.name: {location!r} is no base: use {DEMO}, a folder (./…) or a Hub id (owner/name)"
        )
    return _hub(location, revision, name)


def is_folder(location: str) -> bool:
    """Whether a base's location is a path, as against a Hub id or a demo model."""
    return location.startswith((".", "/", "~"))


def import_base(source: BaseSource, store: Store) -> Artifact:
    """Fetch and seal the base, unless it is in the store already.

    Raises ArtifactExists when another model has its name, BadInput when it cannot be taken over.
    """
    target = store.base(source.name)
    if target.exists():
        base = open_artifact(target, "base", digests=True)
        if source.made(base.manifest.lineage["source"]):
            return base
        origin = base.manifest.lineage["source"].id
        raise ArtifactExists(
            f"{target} was imported from {origin}, which is not {source.location} as it is now; "
            "choose another --name, or remove it"
        )
    with draft(target, {"location": source.location}) as partial:
        origin_of_files = source.fetch(partial)
        _check(partial)
        return seal(partial, "base", target.name, lineage={"source": origin_of_files})


def _check(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in _read_json(folder / name):
            raise BadInput(
                f"{name} of this base asks for remote code (auto_map); Hone runs none, choose another base"
            )
    if not list(folder.glob("*.safetensors")):
        raise BadInput("this base has no *.safetensors weights; convert it with save_pretrained() first")
    if not (folder / TOKENIZER).is_file():
        raise BadInput(f"this base has no {TOKENIZER}; convert its tokenizer with save_pretrained() first")
    _extract_chat_template(folder)


def _extract_chat_template(folder: Path) -> None:
    """Older models keep the template in tokenizer_config.json; give it the file that newer ones have."""
    template = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, str) and not (folder / CHAT_TEMPLATE).exists():
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    """Empty when there is no such file. Raises BadInput when it holds no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise BadInput(f"{path.name} of this base is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path.name} of this base is no JSON object")
    return value


def _demo(location: str, name: str | None) -> BaseSource:
    if location != DEMO:
        raise BadConfiguration(f"model.name: no demo model {location!r}; there is {DEMO}")

    def fetch(target: Path) -> Source:
        from hone_trainer.demo_base import convert  # noqa: PLC0415 - imports torch

        convert(target)
        return Source(id=DEMO)

    return BaseSource(location, name or location, fetch, lambda origin: origin.id == DEMO)


def _folder(location: str, name: str | None) -> BaseSource:
    folder = Path(location).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise BadConfiguration(f"model.name: {location} is no model folder: there is no {folder}/config.json")

    def origin() -> Source:
        digests = {path.name: sha256_of(folder, path.name) for path in _wanted(folder)}
        return Source(id=f"folder:{folder.name}", digest=digest_of(digests))

    def fetch(target: Path) -> Source:
        for path in _wanted(folder):
            shutil.copyfile(path, target / path.name)
        return origin()

    return BaseSource(location, name or folder.name, fetch, lambda found: found.digest == origin().digest)


def _hub(location: str, revision: str | None, name: str | None) -> BaseSource:
    def fetch(target: Path) -> Source:
        from hone_trainer.hub import download  # noqa: PLC0415 - its import takes a second

        asked = f"#{revision}" if revision else ""
        return Source(id=f"hub:{location}@{download(location, revision, WANTED, target)}{asked}")

    def made(origin: Source) -> bool:
        repository, _, fetched = origin.id.removeprefix("hub:").partition("@")
        if not origin.id.startswith("hub:"):
            return True  # imported by hand under this name, which needs no Hub
        commit, _, asked = fetched.partition("#")
        # A branch or tag is resolved when the base is first fetched, and stays as recorded.
        same = revision is None or revision == asked or (_is_commit(revision) and commit.startswith(revision))
        return repository == location and same

    return BaseSource(location, name or location, fetch, made)


def _is_commit(revision: str | None) -> TypeGuard[str]:
    return revision is not None and re.fullmatch(r"[0-9a-f]{7,40}", revision) is not None


def _wanted(folder: Path) -> list[Path]:
    return sorted({path for pattern in WANTED for path in folder.glob(pattern)})
