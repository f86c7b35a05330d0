"""Reads datasets from a Hub in a process of its own: huggingface_hub takes its address at import."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Streamed:
    """What came of one dataset."""

    commit: str
    rows: list[tuple[str, int, dict[str, Any]]]
    """The name of each row's file, its number, and the row."""
    error: str
    """The class of the error that ended it, or nothing."""
    message: str


class Reader:
    """Asks that process for one dataset after the other."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self.folder = folder
        """Where it runs."""

    def read(
        self,
        hub: str,
        *,
        seed: int = 1,
        limit: int = 10**6,
        buffer: int = 10_000,
        token: str | None = None,
        **source: str,
    ) -> Streamed:
        """Up to `limit` rows of a source; keywords are those of a source in a run spec."""
        asked = {"source": {"hub": hub, **source}, "seed": seed, "limit": limit, "buffer": buffer}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({**asked, "token": token}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Streamed(**{**answer, "rows": [tuple(row) for row in answer["rows"]]})


@contextmanager
def reading(folder: Path, environment: dict[str, str]) -> Iterator[Reader]:
    """Such a process, with its caches in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("trainer_streamer.py"))],
        cwd=folder,
        env={**kept, **environment, "HF_HOME": str(folder / "hf")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Reader(process, folder)
    finally:
        process.communicate(timeout=60)
