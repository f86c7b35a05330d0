"""What one server remembers of the versions it was told to serve, so that a crash comes back on a proven one.

It lies beside the server, not in the store, which a server may only read.
"""

import hashlib
from pathlib import Path

from pydantic import ValidationError

from hone_contract.artifact import Artifact, write_atomically
from hone_contract.events import Reporter
from hone_contract.shape import Shape

_KEPT = 20


class Tried(Shape):
    """A version, as it was when it was tried."""

    version: str
    digest: str
    """Of its manifest: a version that is made anew is another."""
    reason: str
    """Why it was refused; empty while nothing is known."""

    def is_of(self, model: Artifact) -> bool:
        return (self.version, self.digest) == (model.path.name, model.manifest.digest)


class Record(Shape):
    """One server's experience with the versions of one model."""

    passed: list[str] = []
    """Versions that passed the gate and were served, the latest last."""
    refused: list[Tried] = []
    attempted: Tried | None = None
    """The version that is being tried. None: none is."""

    def refusal(self, model: Artifact) -> str | None:
        """Why this very model is not tried again; None: it may be tried."""
        return next((each.reason for each in self.refused if each.is_of(model)), None)

    def trying(self, model: Artifact) -> "Record":
        return self.model_copy(update={"attempted": _tried(model, "")})

    def at_a_start(self) -> "Record":
        """What is still being tried then brought the server down."""
        if self.attempted is None:
            return self
        down = self.attempted.model_copy(update={"reason": "the server went down while it was tried"})
        return self._having_refused(down)

    def having_passed(self, model: Artifact) -> "Record":
        version = model.path.name
        passed = [each for each in self.passed if each != version]
        refused = [each for each in self.refused if each.version != version]
        return Record(passed=[*passed, version][-_KEPT:], refused=refused)

    def having_refused(self, model: Artifact, reason: str) -> "Record":
        return self._having_refused(_tried(model, reason))

    def _having_refused(self, tried: Tried) -> "Record":
        refused = [each for each in self.refused if each.version != tried.version]
        return Record(passed=self.passed, refused=[*refused, tried][-_KEPT:])

    def having_given_up(self) -> "Record":
        """Neither passed nor refused: it may be tried again."""
        return self.model_copy(update={"attempted": None})


def record_path(state: Path, store: Path, name: str, port: int) -> Path:
    """One a server: two of them on one machine differ in their store, model or port."""
    place = hashlib.sha256(str(store.resolve()).encode()).hexdigest()[:8]
    return state / f"{name}-{port}-{place}.json"


class Memory:
    """A server's record while it runs; a disk that cannot be written to is told once and is no failure."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self._path, self._reporter = path, reporter
        self._told = False
        self.record = _read(path).at_a_start()

    def trying(self, model: Artifact) -> None:
        self._set(self.record.trying(model))

    def passed(self, model: Artifact) -> None:
        self._set(self.record.having_passed(model))

    def refused(self, model: Artifact, reason: str) -> None:
        self._set(self.record.having_refused(model, reason))

    def gave_up(self) -> None:
        self._set(self.record.having_given_up())

    def _set(self, record: Record) -> None:
        self.record = record
        try:
            write_atomically(self._path, record.model_dump_json(indent=1) + "\n")
        except OSError as error:
            if not self._told:
                self._reporter.tell(
                    "record_not_kept",
                    f"{self._path} cannot be written: {error.strerror}; after a crash this server will not "
                    "know which version passed last; set HONE_STATE to a folder that it may write to",
                    level="warning",
                )
            self._told = True


def _read(path: Path) -> Record:
    """An empty one when there is none, or none that can be read."""
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return Record()


def _tried(model: Artifact, reason: str) -> Tried:
    return Tried(version=model.path.name, digest=model.manifest.digest, reason=reason)
