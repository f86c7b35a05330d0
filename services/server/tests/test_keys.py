"""Keys of clients: how they are written, how they are compared, and how a file of them is followed."""

import hashlib
import hmac
import os
from pathlib import Path

import pytest
from server_samples import Notes, make_keys

from hone_contract.errors import BadConfiguration
from hone_server import keys as keys_module
from hone_server.keys import ANONYMOUS, KeyRing, keys_from_environment, read_key_file, read_keys

DIGEST = hashlib.sha256(b"secret").hexdigest()


def names(text: str) -> list[str]:
    return [key.name for key in make_keys(text)]


def shown(ring: KeyRing, key: str) -> str | None:
    return ring.name_of([(b"authorization", f"Bearer {key}".encode())])


@pytest.mark.parametrize(
    ("entry", "name", "key"),
    [
        ("secret", f"key-{DIGEST[:8]}", "secret"),
        ("ann:secret", "ann", "secret"),
        (f"sha256:{DIGEST}", f"key-{DIGEST[:8]}", "secret"),
        (f"ann.b-1_2:sha256:{DIGEST.upper()}", "ann.b-1_2", "secret"),
        ("p@ss:word", None, "p@ss:word"),
        ("ann:a:b", "ann", "a:b"),
        ("  secret  ", f"key-{DIGEST[:8]}", "secret"),
        ("sk-" + "a" * 100, None, "sk-" + "a" * 100),
    ],
)
def test_an_entry_is_a_key_or_its_digest_with_a_name_or_without(
    entry: str, name: str | None, key: str
) -> None:
    [read] = make_keys(entry)
    assert read.digest == hashlib.sha256(key.encode()).digest()
    assert name is None or read.name == name
    assert shown(KeyRing((read,), None, Notes()), key) == read.name


@pytest.mark.parametrize(
    "entry",
    [
        "sha256:abc",
        f"ann:sha256:{DIGEST}0",
        f"sha256:{'g' * 64}",
        "ann:",
        "two words",
        "clé",
        "a\tb",
    ],
)
def test_an_entry_that_is_none_is_named_by_its_place_and_never_quoted(entry: str) -> None:
    with pytest.raises(BadConfiguration, match="entry 2") as found:
        make_keys(f"first,{entry}")
    assert entry not in str(found.value)


def test_lines_commas_comments_and_empty_lines() -> None:
    assert names("# of the team\nann:a, bob:b\n\n  # more\ncay:c\n") == ["ann", "bob", "cay"]
    assert names("ann:a\r\nann:b\r\n") == ["ann", "ann"]


@pytest.mark.parametrize("text", ["", "\n", ",,", "# only this"])
def test_no_key_at_all_is_a_mistake(text: str) -> None:
    with pytest.raises(BadConfiguration, match="holds no key"):
        make_keys(text)


def test_no_key_is_in_memory() -> None:
    ring = KeyRing(make_keys("ann:verysecret"), None, Notes())
    assert "verysecret" not in repr(vars(ring))


def test_every_key_is_compared_whatever_the_first_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    original = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return original(one, other)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", compare)
    ring = KeyRing(make_keys("a:1,b:2,c:3"), None, Notes())
    assert shown(ring, "1") == "a"
    assert len(compared) == 3
    assert all(len(each) == 32 for each in compared)


def test_without_keys_everybody_has_one_name() -> None:
    assert KeyRing((), None, Notes()).name_of([]) == ANONYMOUS


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("ann:a\n")
    monkeypatch.setenv("HONE_API_KEY_FILE", str(tmp_path / "keys"))
    monkeypatch.delenv("HONE_API_KEY", raising=False)
    assert keys_from_environment() == (read_keys("ann:a", ""), tmp_path / "keys")
    monkeypatch.setenv("HONE_API_KEY", "bob:b")
    assert keys_from_environment() == (read_keys("bob:b", ""), None)
    monkeypatch.delenv("HONE_API_KEY_FILE")
    monkeypatch.delenv("HONE_API_KEY")
    assert keys_from_environment() == ((), None)


# ---- a file that changes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [1000.0]
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text("ann:a\n")
    return file


@pytest.fixture
def ring(file: Path, notes: Notes) -> KeyRing:
    return KeyRing(read_key_file(file), file, notes)


def test_a_changed_file_is_read_again(ring: KeyRing, file: Path, clock: list[float], notes: Notes) -> None:
    assert shown(ring, "a") == "ann"
    file.write_text("bob:bb\n")
    # Looked at only every few seconds.
    assert shown(ring, "bb") is None
    clock[0] += 10
    assert shown(ring, "bb") == "bob"
    assert shown(ring, "a") is None
    assert notes.named("keys_reloaded") == ["the keys changed: bob"]


def test_a_file_that_has_not_changed_is_not_told(ring: KeyRing, clock: list[float], notes: Notes) -> None:
    for _ in range(3):
        assert shown(ring, "a") == "ann"
        clock[0] += 10
    assert not notes.told


def test_a_secret_of_kubernetes_changes_by_its_links(
    tmp_path: Path, clock: list[float], notes: Notes
) -> None:
    for version, text in (("1", "ann:a\n"), ("2", "bob:b\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(text)
    (tmp_path / "data").symlink_to("1")
    file = tmp_path / "key"
    file.symlink_to("data/key")
    ring = KeyRing(read_key_file(file), file, notes)
    assert shown(ring, "a") == "ann"
    (tmp_path / "next").symlink_to("2")
    os.replace(tmp_path / "next", tmp_path / "data")
    clock[0] += 10
    assert shown(ring, "b") == "bob"


@pytest.mark.parametrize("content", [None, b"", b"# none\n", b"sha256:x\n", b"\xff\n"])
def test_a_file_that_cannot_be_used_leaves_the_keys_as_they_were(
    ring: KeyRing, file: Path, clock: list[float], notes: Notes, content: bytes | None
) -> None:
    assert shown(ring, "a") == "ann"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for _ in range(3):
        clock[0] += 10
        assert shown(ring, "a") == "ann"
    [told] = notes.named("keys_kept")
    assert str(file) in told
    file.write_text("bob:b\n")
    clock[0] += 10
    assert shown(ring, "b") == "bob"
    file.unlink()
    clock[0] += 10
    assert shown(ring, "b") == "bob"
    assert len(notes.named("keys_kept")) == 2


def test_no_key_is_told_when_the_file_changes(
    ring: KeyRing, file: Path, clock: list[float], notes: Notes
) -> None:
    file.write_text("plainsecret\nbob:othersecret\n")
    clock[0] += 10
    shown(ring, "plainsecret")
    assert notes.told
    assert "secret" not in repr(notes.told)
