"""What sealing promises a reader, and what opening refuses."""

import errno
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from hone_contract.artifact import Artifact, draft, open_artifact, seal, write_atomically
from hone_contract.errors import (
    ArtifactBusy,
    ArtifactCorrupt,
    ArtifactExists,
    ArtifactIncomplete,
    ArtifactMissing,
    BadInput,
    UnsupportedSchema,
)
from hone_contract.manifest import Kind, Manifest, Source

WEIGHTS = "model.safetensors"
NESTED = "tokenizer/tokenizer.json"

# A writer in a process of its own: fills a draft of the folder in argv[1], tells, then waits to be told.
OTHER_WRITER = """
import sys
from pathlib import Path
from hone_contract.artifact import draft, seal
with draft(Path(sys.argv[1]), {"plan": 1}) as partial:
    (partial / "half.bin").write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
    seal(partial, "model", "theirs", lineage={})
"""


def _other_writer(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_WRITER, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def _seal_bytes(target: Path, content: bytes, kind: Kind = "base", **said: Any) -> Artifact:
    with draft(target, "plan") as partial:
        (partial / "file").write_bytes(content)
        return seal(partial, kind, target.name, **{"lineage": {}, **said})


def _rewrite(artifact: Artifact, **changed: object) -> None:
    path = artifact.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}), encoding="utf-8")


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("digests", [False, True])
def test_what_was_sealed_opens(
    tmp_path: Path, kind: Kind, digests: bool, seal_small: Callable[[Path, Kind], Artifact]
) -> None:
    written = seal_small(tmp_path / "thing", kind)
    assert open_artifact(tmp_path / "thing", kind, digests=digests) == written
    assert [entry.path for entry in written.manifest.files] == [WEIGHTS, NESTED]
    assert [entry.size for entry in written.manifest.files] == [256, 19]


def test_manifest_records_what_the_writer_said(tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    lineage = {
        "dataset": Source(id="data", digest="b" * 64),
        "source": Source(id="Qwen/Qwen2.5-0.5B@7ae5576"),
    }
    _seal_bytes(tmp_path / "a", b"", lineage=lineage, tools={"peft": "0.18.0"}, metrics={"eval_loss": 1.5})
    manifest = open_artifact(tmp_path / "a", "base").manifest
    assert (manifest.id, manifest.lineage) == ("a", lineage)
    assert (manifest.tools, manifest.metrics) == ({"peft": "0.18.0"}, {"eval_loss": 1.5})
    assert before <= manifest.created_at <= datetime.now(UTC)


def test_a_digest_that_was_taken_while_writing_is_not_taken_again(tmp_path: Path) -> None:
    with draft(tmp_path / "a", {}) as partial:
        (partial / "weights").mkdir()
        (partial / "weights" / "one").write_bytes(b"1")
        (partial / "two").write_bytes(b"2")
        sealed = seal(partial, "model", "a", lineage={}, digests={"weights/one": "0" * 64})
    digests = {entry.path: entry.sha256 for entry in sealed.manifest.files}
    assert digests == {"weights/one": "0" * 64, "two": hashlib.sha256(b"2").hexdigest()}
    with pytest.raises(ArtifactCorrupt, match="weights/one has changed"):
        open_artifact(sealed.path, "model", digests=True)


def test_source_names_the_artifact_and_its_identity(sealed: Artifact) -> None:
    assert sealed.source == Source(id="v1", digest=sealed.manifest.digest)


def test_nothing_has_the_name_before_it_is_sealed(tmp_path: Path) -> None:
    with draft(tmp_path / "a", "plan") as partial:
        (partial / "file").write_bytes(b"x")
        with pytest.raises(ArtifactMissing, match="hone-store ls"):
            open_artifact(tmp_path / "a", "base")
        seal(partial, "base", "a", lineage={})
        assert open_artifact(tmp_path / "a", "base").path == tmp_path / "a"
    assert not partial.exists()


def test_a_writer_that_fails_seals_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), draft(tmp_path / "a", "plan") as partial:
        (partial / "file").write_bytes(b"x")
        raise ZeroDivisionError
    with pytest.raises(ArtifactMissing):
        open_artifact(tmp_path / "a", "base")


@pytest.mark.parametrize(
    "said",
    [
        {"created_at": datetime(2001, 1, 1, tzinfo=UTC)},
        {"tools": {"torch": "9"}},
        {"metrics": {"loss": 0.5}},
        {"id": "other"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_identity_ignores(sealed: Artifact, said: dict[str, Any]) -> None:
    changed = sealed.manifest.model_copy(update=said)
    assert changed != sealed.manifest
    assert changed.digest == sealed.manifest.digest


def test_identity_depends_on_files_kind_and_lineage(tmp_path: Path) -> None:
    first = _seal_bytes(tmp_path / "1", b"one").manifest
    others = [
        _seal_bytes(tmp_path / "2", b"two"),
        _seal_bytes(tmp_path / "3", b"one", "model"),
        _seal_bytes(tmp_path / "4", b"one", lineage={"base": Source(id="tiny", digest="a" * 64)}),
        _seal_bytes(tmp_path / "5", b"one", lineage={"base": Source(id="tiny", digest="b" * 64)}),
    ]
    renamed = first.model_copy(update={"files": [first.files[0].model_copy(update={"path": "other"})]})
    assert len({first.digest, renamed.digest, *(other.manifest.digest for other in others)}) == 6
    assert _seal_bytes(tmp_path / "7", b"one").manifest.digest == first.digest


def test_identity_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    def write(target: Path, names: str) -> str:
        with draft(target, "plan") as partial:
            for name in names:
                (partial / name).write_text(name)
            return seal(partial, "base", "x", lineage={n: Source(id=n) for n in names}).manifest.digest

    assert write(tmp_path / "1", "abc") == write(tmp_path / "2", "cba")


@pytest.mark.parametrize("name", [WEIGHTS, NESTED])
def test_missing_file_is_refused_by_name(sealed: Artifact, name: str) -> None:
    (sealed.path / name).unlink()
    with pytest.raises(ArtifactCorrupt, match=rf"{name} is missing; the artifact must be made again"):
        open_artifact(sealed.path, "model")


@pytest.mark.parametrize("name", ["extra.bin", "tokenizer/extra.bin", ".hidden", "tokenizer/manifest.json"])
def test_added_file_is_refused_by_name(sealed: Artifact, name: str) -> None:
    (sealed.path / name).write_bytes(b"")
    with pytest.raises(ArtifactCorrupt, match=f"{name} is not in the manifest"):
        open_artifact(sealed.path, "model")


@pytest.mark.parametrize("name", [WEIGHTS, NESTED])
@pytest.mark.parametrize("size", [0, 1, 300])
def test_resized_file_is_refused_by_name(sealed: Artifact, name: str, size: int) -> None:
    os.truncate(sealed.path / name, size)
    with pytest.raises(ArtifactCorrupt, match=f"{name} has {size} bytes where the manifest says"):
        open_artifact(sealed.path, "model")


@pytest.mark.parametrize("name", [WEIGHTS, NESTED])
@pytest.mark.parametrize("position", [0, -1])
def test_changed_byte_is_refused_by_name_when_digests_are_read(
    sealed: Artifact, name: str, position: int
) -> None:
    content = bytearray((sealed.path / name).read_bytes())
    content[position] ^= 1
    (sealed.path / name).write_bytes(content)
    open_artifact(sealed.path, "model")
    with pytest.raises(ArtifactCorrupt, match=f"{name} has changed since it was sealed"):
        open_artifact(sealed.path, "model", digests=True)


def _link_to_same_bytes(folder: Path) -> str:
    (folder / WEIGHTS).rename(folder.parent / "moved")
    (folder / WEIGHTS).symlink_to(folder.parent / "moved")
    return WEIGHTS


def _link_to_folder(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent)
    return "link"


def _dangling_link(folder: Path) -> str:
    (folder / "link").symlink_to("nowhere")
    return "link"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


@pytest.mark.parametrize("spoil", [_link_to_same_bytes, _link_to_folder, _dangling_link, _pipe])
def test_links_and_pipes_are_refused(sealed: Artifact, spoil: Callable[[Path], str]) -> None:
    name = spoil(sealed.path)
    with pytest.raises(ArtifactCorrupt, match=f"{name} is a link or no plain file"):
        open_artifact(sealed.path, "model")


def test_a_linked_manifest_is_refused(sealed: Artifact) -> None:
    (sealed.path / "manifest.json").rename(sealed.path.parent / "moved.json")
    (sealed.path / "manifest.json").symlink_to(sealed.path.parent / "moved.json")
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json is a link"):
        open_artifact(sealed.path, "model")


@pytest.mark.parametrize("spoil", [_link_to_folder, _dangling_link, _pipe])
def test_links_and_pipes_are_not_sealed(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    with draft(tmp_path / "a", "plan") as partial:
        name = spoil(partial)
        with pytest.raises(ArtifactCorrupt, match=f"{name} is a link or no plain file"):
            seal(partial, "base", "a", lineage={})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "a/../../b", "a/..", "..", ".", "", "./a", "a//b", "a/"]
)
def test_manifest_cannot_point_out_of_its_folder(sealed: Artifact, path: str) -> None:
    entry = {"path": path, "size": 0, "sha256": "0" * 64}
    _rewrite(sealed, files=[entry])
    with pytest.raises(ArtifactCorrupt, match=r"files\.0\.path: .*plain path below"):
        open_artifact(sealed.path, "model")


def test_a_newer_schema_asks_for_an_upgrade(sealed: Artifact) -> None:
    _rewrite(sealed, schema_version=2, something_new=[1])
    with pytest.raises(UnsupportedSchema, match=r"schema version 2, .* up to 1; upgrade Hone"):
        open_artifact(sealed.path, "model")


def test_a_file_named_like_a_newer_schema_changes_nothing(tmp_path: Path) -> None:
    _seal_bytes(tmp_path / "a", b"", tools={"schema_version": "9", '"schema_version": 9': "x"})
    assert open_artifact(tmp_path / "a", "base").manifest.schema_version == 1


def test_the_wrong_kind_is_refused(sealed: Artifact) -> None:
    with pytest.raises(ArtifactCorrupt, match="holds a model, not"):
        open_artifact(sealed.path, "adapter")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"not json",
        b'{"kind": "model"',
        b'{"kind": "\xff"}',
        b'{"schema_version": 0}',
        b"\0",
    ],
)
def test_a_broken_manifest_is_refused_by_name(sealed: Artifact, content: bytes) -> None:
    (sealed.path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json: not a manifest: .*made again"):
        open_artifact(sealed.path, "model")


@pytest.mark.parametrize(
    "changed",
    [{"surplus": 1}, {"kind": "picture"}, {"created_at": "yesterday"}, {"metrics": {"loss": None}}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_manifest_with_a_wrong_key_is_refused(sealed: Artifact, changed: dict[str, Any]) -> None:
    _rewrite(sealed, **changed)
    with pytest.raises(ArtifactCorrupt, match=rf"not a manifest: {next(iter(changed))}"):
        open_artifact(sealed.path, "model")


def test_a_truncated_manifest_never_opens(sealed: Artifact) -> None:
    path = sealed.path / "manifest.json"
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactCorrupt):
            open_artifact(sealed.path, "model")


def test_a_partial_folder_is_refused_even_with_a_manifest(sealed: Artifact) -> None:
    partial = sealed.path.with_name("v1.partial-0123456789ab")
    sealed.path.rename(partial)
    with pytest.raises(ArtifactIncomplete, match="never sealed"):
        open_artifact(partial, "model")


def test_a_folder_without_manifest_is_refused(sealed: Artifact) -> None:
    (sealed.path / "manifest.json").unlink()
    with pytest.raises(ArtifactIncomplete, match="never sealed"):
        open_artifact(sealed.path, "model")


def test_a_file_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(ArtifactMissing, match="no base at"):
        open_artifact(tmp_path / "a", "base")


def test_a_name_is_sealed_once(tmp_path: Path) -> None:
    first = _seal_bytes(tmp_path / "a", b"first")
    with pytest.raises(ArtifactExists, match="is there already"):
        _seal_bytes(tmp_path / "a", b"second")
    assert open_artifact(tmp_path / "a", "base", digests=True) == first


def test_a_folder_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("keep me")
    with pytest.raises(ArtifactExists):
        _seal_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a" / "mine").read_text() == "keep me"


def _take_with_a_folder(target: Path) -> None:
    target.mkdir()
    (target / "mine").touch()


@pytest.mark.parametrize("take", [_take_with_a_folder, Path.touch])
def test_a_name_that_is_taken_while_it_is_written_is_told(
    tmp_path: Path, take: Callable[[Path], None]
) -> None:
    with pytest.raises(ArtifactExists, match="is there already"), draft(tmp_path / "a", "plan") as partial:
        take(tmp_path / "a")
        seal(partial, "base", "a", lineage={})


@pytest.mark.parametrize("kind", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_a_rename_that_fails_otherwise_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(kind, os.strerror(kind))

    with draft(tmp_path / "a", "plan") as partial, monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match=re.escape(os.strerror(kind))):
            seal(partial, "base", "a", lineage={})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_json_cannot_say_is_refused_before_the_name_is_taken(
    tmp_path: Path, value: float
) -> None:
    with pytest.raises(BadInput, match=r"cannot be sealed: metrics\.eval_loss: .*finite"):
        _seal_bytes(tmp_path / "a", b"x", metrics={"eval_loss": value})
    assert not (tmp_path / "a").exists()


def test_of_two_writers_at_once_the_second_is_told_to_wait(tmp_path: Path) -> None:
    other = _other_writer(tmp_path / "a")
    with pytest.raises(ArtifactBusy, match="written by another process"), draft(tmp_path / "a", "mine"):
        pytest.fail("two writers got the same artifact")
    _seal_bytes(tmp_path / "b", b"another name is free")
    other.communicate("")
    assert other.returncode == 0
    assert open_artifact(tmp_path / "a", "model", digests=True).manifest.id == "theirs"


@pytest.mark.parametrize("keep", [False, True])
def test_what_a_killed_writer_left_is_found_only_with_keep(tmp_path: Path, keep: bool) -> None:
    _kill(_other_writer(tmp_path / "a"))
    with draft(tmp_path / "a", {"plan": 1}, keep=keep) as partial:
        assert [path.name for path in partial.iterdir()] == (["half.bin"] if keep else [])
        (partial / "rest.bin").write_bytes(b"rest")
        seal(partial, "model", "a", lineage={})
    names = [entry.path for entry in open_artifact(tmp_path / "a", "model", digests=True).manifest.files]
    assert names == (["half.bin", "rest.bin"] if keep else ["rest.bin"])


def test_another_plan_starts_from_nothing(tmp_path: Path) -> None:
    _kill(_other_writer(tmp_path / "a"))
    with draft(tmp_path / "a", {"plan": 2}, keep=True) as partial:
        assert list(partial.iterdir()) == []


def test_a_continued_draft_forgets_the_manifest_it_was_killed_with(tmp_path: Path) -> None:
    with draft(tmp_path / "a", "plan") as partial:
        (partial / "file").write_bytes(b"x")
        (partial / "manifest.json").write_text("left by a writer killed just before the rename")
    with draft(tmp_path / "a", "plan", keep=True) as partial:
        seal(partial, "base", "a", lineage={})
    manifest = open_artifact(tmp_path / "a", "base", digests=True).manifest
    assert [entry.path for entry in manifest.files] == ["file"]


def test_a_clean_start_that_cannot_clean_fails(tmp_path: Path) -> None:
    """Sealing what could not be removed would put another run's files into the artifact."""
    with draft(tmp_path / "a", "plan") as partial:
        (partial / "stale").write_bytes(b"x")
    partial.rename(tmp_path / "elsewhere")
    partial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), draft(tmp_path / "a", "plan"):
        pytest.fail("a draft with a stale file in it was handed out")


def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "status.json"
    write_atomically(path, "first, and longer\n")
    write_atomically(path, "zweite: ä\n")
    assert path.read_text(encoding="utf-8") == "zweite: ä\n"
    assert list(path.parent.iterdir()) == [path]


def test_writers_with_one_process_id_do_not_meet(tmp_path: Path) -> None:
    """Two containers on one store are often both process 1, as two threads here are one process."""
    texts = [letter * 200_000 for letter in "abcd"]
    path = tmp_path / "live"
    with ThreadPoolExecutor(len(texts)) as pool:
        for done in [pool.submit(write_atomically, path, text) for text in texts * 10]:
            done.result()
            assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_manifest_is_immutable(sealed: Artifact) -> None:
    with pytest.raises(ValueError, match="frozen"):
        sealed.manifest.id = "other"  # type: ignore[misc]
    assert isinstance(sealed.manifest, Manifest)
