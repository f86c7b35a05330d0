"""Kill the writer at any point: no reader ever opens a half-written artifact.

A forked writer kills itself with SIGKILL when it is about to call the N-th C function that makes
system calls, for N = 1, 2, 3, … until it finishes. Python reaches every system call through such a
function, so every state that the writer leaves on the disk between two of them is seen.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

import pytest

from hone_contract.artifact import Artifact, draft, open_artifact, seal, write_atomically
from hone_contract.errors import ArtifactExists, ArtifactIncomplete, ArtifactMissing
from hone_contract.manifest import Source
from hone_contract.store import Store

pytestmark = pytest.mark.chain
# Of the C functions that a writer calls, those that touch files are in these modules.
SYSTEM = ("posix", "io", "_io", "fcntl")
PLAN = {"adapter": "faq-0123456789"}
FILES = {
    "config.json": b"{}\n",
    "model.safetensors": b"\x01" * 70_000,
    "tokenizer/tokenizer.json": b'{"version": "1.0"}\n',
}


def _write(target: Path, *, keep: bool) -> Artifact:
    with draft(target, PLAN, keep=keep) as unsealed:
        for name, content in FILES.items():
            (unsealed / name).parent.mkdir(exist_ok=True)
            (unsealed / name).write_bytes(content)
        return seal(unsealed, "model", target.name, lineage={"base": Source(id="tiny")})


def _finishes(work: Callable[[], object], death: int) -> bool:
    """Run `work` in a fork that dies at its `death`-th event; True when it finished before."""
    child = os.fork()
    if child == 0:
        _work_and_die(work, death)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the writer failed by itself"
    return True


def _makes_system_calls(function: object) -> bool:
    owner = getattr(function, "__self__", None)
    return (owner.__name__ if isinstance(owner, ModuleType) else type(owner).__module__) in SYSTEM


def _work_and_die(work: Callable[[], object], death: int) -> NoReturn:
    events = count(1)

    def die_in_time(_frame: FrameType, event: str, function: object) -> None:
        if event == "c_call" and _makes_system_calls(function) and next(events) == death:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.setprofile(die_in_time)
        work()
        sys.setprofile(None)
        code = 0
    finally:
        # Neither pytest's clean-up nor its report may run in a fork of it.
        os._exit(code)


def _deaths(work: Callable[[Path], object], folder: Path, start: Callable[[Path], object]) -> Iterator[Path]:
    """Kill `work` at every point, each time in a fresh folder that `start` has filled."""
    for death in count(1):
        place = folder / str(death)
        place.mkdir()
        start(place)
        finished = _finishes(partial(work, place), death)
        yield place
        shutil.rmtree(place)
        if finished:
            return


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be had: a kill loses nothing that fsync would have kept, and fsync is slow."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        yield Path(name)


def _target(root: Path) -> Path:
    return Store(root).model("faq", "v1")


def _nothing(_root: Path) -> None:
    """The writer is the first to come."""


def _leftover(root: Path) -> None:
    """A writer of the same plan was killed just before the rename, and left a file of its own."""
    sealed = _write(_target(root), keep=False).path.rename(root / "sealed")
    with draft(_target(root), PLAN) as unsealed:
        (unsealed / "surplus").write_bytes(b"x")
        for path in sealed.iterdir():
            path.rename(unsealed / path.name)
    sealed.rmdir()


def _check_whole(path: Path, surplus: set[str]) -> None:
    artifact = open_artifact(path, "model", digests=True)
    assert {entry.path for entry in artifact.manifest.files} == FILES.keys() | surplus
    assert all((path / name).read_bytes() == content for name, content in FILES.items())


def _look(root: Path, surplus: set[str]) -> str:
    """How far the writer came, after checking that a reader finds all of it or nothing."""
    listed, partials = list(Store(root).artifacts()), Store(root).partials()
    for path in partials:
        with pytest.raises(ArtifactIncomplete):
            open_artifact(path, "model")
    try:
        open_artifact(_target(root), "model", digests=True)
    except ArtifactMissing:
        assert listed == []
        return "sealing" if any((path / "manifest.json").exists() for path in partials) else "writing"
    _check_whole(_target(root), surplus)
    assert listed == [("model", _target(root))]
    return "sealed"


@pytest.mark.parametrize(
    ("start", "keep", "surplus"),
    [(_nothing, False, set()), (_leftover, False, set()), (_leftover, True, {"surplus"})],
    ids=["first writer", "clean start over a leftover", "continuing a leftover"],
)
def test_no_death_of_the_writer_shows_half_an_artifact(
    folder: Path, start: Callable[[Path], object], keep: bool, surplus: set[str]
) -> None:
    seen: list[str] = []
    for root in _deaths(lambda root: _write(_target(root), keep=keep), folder, start):
        seen.append(_look(root, surplus))
        if seen[-1] == "sealed":
            with pytest.raises(ArtifactExists):
                _write(_target(root), keep=keep)
        else:
            _write(_target(root), keep=keep)
        _check_whole(_target(root), surplus)
    # Without these the sweep would have missed the moments that matter.
    assert set(seen) == {"writing", "sealing", "sealed"}
    assert seen.count("sealed") > 1
    assert seen[-1] == "sealed"


@pytest.mark.parametrize("old", ["", "old\n" * 30_000], ids=["no file before", "a file before"])
def test_no_death_of_the_writer_shows_half_a_file(folder: Path, old: str) -> None:
    new = "new, and longer\n" * 30_000

    def start(place: Path) -> None:
        if old:
            (place / "status.json").write_text(old)

    seen: list[str] = []
    for place in _deaths(lambda place: write_atomically(place / "status.json", new), folder, start):
        path = place / "status.json"
        seen.append(path.read_text() if path.exists() else "")
        write_atomically(path, new)
        assert path.read_text() == new
    assert set(seen) == {old, new}
    assert seen.count(old) > 1 and seen.count(new) > 1


@pytest.mark.parametrize("before", [None, "v1"])
def test_no_death_of_the_publisher_shows_half_a_version(
    folder: Path, before: str | None, seal_small: Callable[[Path, str], Artifact]
) -> None:
    def start(root: Path) -> None:
        for version in ("v1", "v2"):
            seal_small(Store(root).model("faq", version), "model")
        if before:
            Store(root).point_live("faq", before)

    seen: list[str | None] = []
    for root in _deaths(lambda root: Store(root).point_live("faq", "v2"), folder, start):
        store = Store(root)
        seen.append(store.read_live("faq"))
        assert store.published() == (["faq"] if seen[-1] else [])
        assert [path.name for _, path in store.artifacts()] == ["v1", "v2"]
        store.point_live("faq", "v2")
        assert store.read_live("faq") == "v2"
    assert set(seen) == {before, "v2"}
    assert seen.count("v2") > 1


# --- the order of the system calls, without which a power cut could show what a kill cannot

TRACED = "openat,write,fsync,rename,renameat,renameat2"
TRACED_WRITER = """
import sys
from pathlib import Path
from hone_contract.artifact import draft, seal
with draft(Path(sys.argv[1]), "plan") as partial:
    (partial / "sub").mkdir()
    (partial / "a.bin").write_bytes(b"a")
    (partial / "sub" / "b.bin").write_bytes(b"b")
    seal(partial, "model", "v1", lineage={})
"""


def _strace(log: Path, *command: str) -> int:
    tracing = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", f"trace={TRACED}", *command]
    return subprocess.run(tracing, capture_output=True, check=False, timeout=60).returncode


def _first(calls: list[str], pattern: str) -> int:
    return _positions(calls, pattern)[0]


def _positions(calls: list[str], pattern: str) -> list[int]:
    found = [index for index, call in enumerate(calls) if re.search(pattern, call)]
    assert found, f"no system call matches {pattern}"
    return found


@pytest.fixture
def calls(tmp_path: Path) -> list[str]:
    """The system calls of a writer that seals `tmp_path / "v1"`, in order."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "log"
    if _strace(log, "true") != 0:
        pytest.skip("tracing another process is not permitted here")
    assert _strace(log, sys.executable, "-c", TRACED_WRITER, str(tmp_path / "v1")) == 0
    return log.read_text(errors="replace").splitlines()


def test_everything_is_on_the_disk_before_the_name_is(tmp_path: Path, calls: list[str]) -> None:
    open_artifact(tmp_path / "v1", "model", digests=True)
    parent = re.escape(str(tmp_path))
    partial = rf"{parent}/v1\.partial-[0-9a-f]+"
    manifest_opened = _first(calls, rf'openat\(.*"{partial}/manifest\.json", .*O_CREAT')
    for name in ("a.bin", "sub/b.bin"):
        written = _positions(calls, rf"write\(\d+<{partial}/{name}>")[-1]
        assert written < _first(calls, rf"fsync\(\d+<{partial}/{name}>\)") < manifest_opened
    assert _first(calls, rf"fsync\(\d+<{partial}/sub>\)") < manifest_opened
    last = [
        manifest_opened,
        _positions(calls, rf"write\(\d+<{partial}/manifest\.json>")[-1],
        _first(calls, rf"fsync\(\d+<{partial}/manifest\.json>\)"),
        _positions(calls, rf"fsync\(\d+<{partial}>\)")[-1],
        _first(calls, rf'rename.*\(.*"{partial}", .*"{parent}/v1"'),
        _positions(calls, rf"fsync\(\d+<{parent}>\)")[-1],
    ]
    assert last == sorted(last)
    assert len(_positions(calls, r"rename")) == 1
