"""A full disk: one line that says how much is free, and more room is all that a merge or an import needs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from merger_weights import seal_weights, weights_folder

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.store import Store
from hone_merger import merge as merging
from hone_merger.__main__ import main
from hone_merger.room import TO_IMPORT, TO_MERGE

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SMALL = ("config.json", "generation_config.json", "merge_report.json", "README.md", "manifest.json")
_SIZE = 16 * 2**20


@dataclass(frozen=True)
class Disk:
    """A file system of its own, where one kind of a store's artifacts lie."""

    place: Path

    def leave(self, size: int) -> None:
        """Fill it up to so many bytes, rounded up to pages."""
        ballast = self.place / "ballast"
        ballast.unlink(missing_ok=True)
        status = os.statvfs(self.place)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (status.f_bavail - -(-size // _PAGE)) * status.f_frsize)


@pytest.fixture
def disk(filled: Store) -> Iterator[Disk]:
    """For models."""
    with _mounted(filled.root / "models") as disk:
        yield disk


@contextmanager
def _mounted(place: Path) -> Iterator[Disk]:
    place.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "hone-test", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@dataclass(frozen=True)
class Command:
    """`hone-merger` in this process."""

    store: Store
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def merge(self, run_id: str) -> tuple[object, str]:
        return self.run("merge", run_id, "--name", "m")

    def run(self, *arguments: str) -> tuple[object, str]:
        """Exit code, and the last line that was told."""
        told = ["hone-merger", "--store", str(self.store.root), *arguments]
        self.monkeypatch.setattr(sys, "argv", told)
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, self.capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def command(filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(filled, monkeypatch, capsys)


def test_whatever_the_room_runs_out_for_is_told_and_it_goes_on_when_there_is_more(
    disk: Disk, command: Command, adapter: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or it would be refused before it has begun.
    monkeypatch.setattr(merging, "check_room", lambda *_, **__: None)
    target = command.store.model("m", adapter.manifest.id)
    failed = 0
    for pages in range(0, 100, 2):
        disk.leave(pages * _PAGE)
        code, told = command.merge(adapter.manifest.id)
        if code == 0:
            break
        failed += 1
        assert code == 75
        assert told.startswith(f"error: {target} could not be written, 0.")
        assert told.endswith(f" MB are free there: No space left on device; {TO_MERGE}")
        assert not target.exists()
    assert failed > 4
    assert open_artifact(target, "model", digests=True)
    assert command.store.read_live("m") == target.name


def test_a_merge_that_would_not_fit_is_refused_before_it_has_begun(
    disk: Disk, command: Command, adapter: Artifact
) -> None:
    disk.leave(0)
    code, told = command.merge(adapter.manifest.id)
    assert code == 75
    assert told.startswith(f"error: {disk.place} has 0.0 MB left, and the model takes 1.")
    assert told.endswith(f" MB; {TO_MERGE}")
    assert not (disk.place / "m").exists()


@pytest.mark.usefixtures("base")
def test_an_import_says_how_much_is_free(command: Command, plain_adapter: Path) -> None:
    target = command.store.root / "adapters" / "mine-"
    with _mounted(target.parent) as disk:
        for pages in (0, 4):
            disk.leave(pages * _PAGE)
            code, told = command.run("import-adapter", str(plain_adapter), "--name", "mine")
            assert code == 75
            assert told.startswith(f"error: {target}") and " could not be written, 0." in told
            assert told.endswith(f" MB are free there: No space left on device; {TO_IMPORT}")


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_what_is_looked_for_is_enough_and_little_more(
    kind: str,
    command: Command,
    base: Artifact,
    adapter: Artifact,
    qwen: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "weights":
        folder = weights_folder(command.store.root / "made", qwen)
        tuned = seal_weights(folder, base, command.store, "faq-0123456789")
    else:
        tuned = adapter
    asked: list[int] = []
    monkeypatch.setattr(merging, "check_room", lambda _, size, *__, **___: asked.append(size))
    assert command.merge(tuned.manifest.id)[0] == 0
    sizes = {path.name: path.stat().st_size for path in command.store.model("m", tuned.manifest.id).iterdir()}
    small = sum(sizes.pop(name) for name in _SMALL)
    assert small < merging._SMALL_FILES
    assert sum(sizes.values()) <= asked[0] - merging._SMALL_FILES < 1.5 * sum(sizes.values())
