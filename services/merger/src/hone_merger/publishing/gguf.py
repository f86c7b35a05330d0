"""One file for llama.cpp, made by llama.cpp's own converter, which this package does not bring."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from hone_contract.artifact import Artifact
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.hub import VARIABLES
from hone_contract.store import Store
from hone_merger.publishing.place import becoming_with_digest, check_place, check_room

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
CONVERTER = "convert_hf_to_gguf.py"
# The first bytes of every file in that format (ggml's docs/gguf.md).
_MAGIC = b"GGUF"
# Of what the converter said, where it fails.
_LAST_LINES = 10
_REPOSITORY = "https://github.com/ggml-org/llama.cpp"
_REQUIREMENTS = "requirements/requirements-convert_hf_to_gguf.txt"


def find_converter(named: Path | None) -> Path:
    """The script as named, or in the folder $LLAMA_CPP, or on PATH. Raises BadConfiguration without one."""
    folder = os.environ.get("LLAMA_CPP")
    on_path = shutil.which(CONVERTER)
    candidates = [named, Path(folder) / CONVERTER if folder else None, Path(on_path) if on_path else None]
    chosen = next((each for each in candidates if each is not None), None)
    if chosen is None:
        raise BadConfiguration(
            f"--gguf needs llama.cpp's {CONVERTER}, which is not here: git clone {_REPOSITORY} && python3 -m "
            f"venv llama.cpp/.venv && llama.cpp/.venv/bin/pip install -r llama.cpp/{_REQUIREMENTS}, and set "
            "LLAMA_CPP to that folder (or name the script with --converter)"
        )
    if not chosen.is_file():
        raise BadConfiguration(
            f"there is no converter {chosen}; name llama.cpp's {CONVERTER} with --converter, or its folder "
            "with LLAMA_CPP"
        )
    return chosen


def write_gguf(
    model: Artifact, target: Path, kind: GgufType, converter: Path, store: Store, reporter: Reporter
) -> Path:
    """Raises BadConfiguration for an adapter, BadInput with the converter's last words when it fails."""
    if model.manifest.kind != "model":
        raise BadConfiguration(
            f"{model.manifest.id} is an adapter; `hone-merger merge {model.manifest.id}` makes a model of "
            "it, which can be converted"
        )
    place = check_place(target, store)
    # Twice as much for float32: the model's own weights may have 16 bits.
    check_room(place, sum(entry.size for entry in model.manifest.files) * (2 if kind == "f32" else 1))
    with becoming_with_digest(place) as partial:
        command = [_interpreter(converter), str(converter), str(model.path), "--outfile", str(partial)]
        done = subprocess.run(
            [*command, "--outtype", kind],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not _is_gguf(partial):
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            for line in lines[-_LAST_LINES:]:
                reporter.tell("converter", line, level="warning")
            last = lines[-1] if lines else "it said nothing"
            raise BadInput(f"{converter.name} could not convert {model.manifest.id}: {last[:300]}")
    return place


def _environment() -> dict[str, str]:
    """Somebody else's program gets no token, and needs none: what it reads is in the folder."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return kept | {"HF_HUB_OFFLINE": "1"}


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _interpreter(converter: Path) -> str:
    """Of an environment beside the script; else this one, which has what most models need."""
    # The script's requirements pin another torch than this package's, so they may not share one.
    own = converter.resolve().parent / ".venv" / "bin" / "python"
    return str(own) if own.is_file() else sys.executable
