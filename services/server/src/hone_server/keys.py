"""Keys of clients: where they come from, and which of them a request shows.

In memory there are only digests. They need no salt, since a key is long and random and no password.
"""

import hashlib
import hmac
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter

ANONYMOUS = "anonymous"
"""Name of whoever comes to a server that has no keys."""

_NAME = r"[A-Za-z0-9._-]{1,64}"
_DIGEST = re.compile(rf"(?:({_NAME}):)?sha256:(.*)")
_NAMED = re.compile(rf"({_NAME}):(.*)")
_SECRET = re.compile(r"[!-~]+")
_CHECK_SECONDS = 2.0


@dataclass(frozen=True)
class Key:
    """One that is let in."""

    name: str
    """For metrics and logs; several keys may share one."""
    digest: bytes
    """SHA-256 of the key."""


def keys_from_environment() -> tuple[tuple[Key, ...], Path | None]:
    """The keys, and the file that they come from, if they come from one. Raises BadConfiguration."""
    text, file = os.environ.get("HONE_API_KEY", ""), os.environ.get("HONE_API_KEY_FILE", "")
    if text:
        return read_keys(text, "HONE_API_KEY"), None
    return (read_key_file(Path(file)), Path(file)) if file else ((), None)


def read_key_file(file: Path) -> tuple[Key, ...]:
    """Raises BadConfiguration."""
    source = f"HONE_API_KEY_FILE {file}"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{source}: cannot be read: {error}") from error
    return read_keys(text, source)


def read_keys(text: str, source: str) -> tuple[Key, ...]:
    """From entries `KEY`, `NAME:KEY`, `sha256:HEX` or `NAME:sha256:HEX`.

    Raises BadConfiguration, which quotes no key.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    if not entries:
        raise BadConfiguration(f"{source}: holds no key; put one in, or unset it")
    return tuple(_read_entry(entry, f"{source}: entry {place}") for place, entry in enumerate(entries, 1))


def _read_entry(entry: str, where: str) -> Key:
    if hashed := _DIGEST.fullmatch(entry):
        name, digits = hashed.groups()
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
            raise BadConfiguration(f"{where}: after sha256: stand 64 hexadecimal digits")
        return _key(name, bytes.fromhex(digits))
    named = _NAMED.fullmatch(entry)
    name, secret = named.groups() if named else (None, entry)
    if not _SECRET.fullmatch(secret):
        raise BadConfiguration(f"{where}: a key is made of printable ASCII characters without spaces")
    return _key(name, hashlib.sha256(secret.encode()).digest())


def _key(name: str | None, digest: bytes) -> Key:
    return Key(name or f"key-{digest.hex()[:8]}", digest)


class KeyRing:
    """The keys that are right now; a file of keys is read again when it has changed."""

    def __init__(self, keys: tuple[Key, ...], file: Path | None, reporter: Reporter) -> None:
        self._keys, self._file, self._reporter = keys, file, reporter
        self._stamp: tuple[int, ...] = ()
        self._checked = float("-inf")
        self._told = False

    def name_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The name of the key that is shown as `Authorization: Bearer KEY`. None: no right one is."""
        if not self._keys:
            return ANONYMOUS
        self._follow_file()
        shown = hashlib.sha256(_token(headers)).digest()
        # All are compared, so that the time tells nothing.
        names = [key.name for key in self._keys if hmac.compare_digest(key.digest, shown)]
        return names[0] if names else None

    def _follow_file(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            # Through links, since Kubernetes changes a secret by pointing a link elsewhere.
            found = self._file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                self._take(read_key_file(self._file))
                self._stamp = stamp
        except (OSError, BadConfiguration) as error:
            self._keep(str(error))
        else:
            self._told = False

    def _take(self, keys: tuple[Key, ...]) -> None:
        if keys == self._keys:
            return
        self._keys = keys
        names = sorted({key.name for key in keys})
        self._reporter.tell("keys_reloaded", f"the keys changed: {', '.join(names)}", names=list(names))

    def _keep(self, reason: str) -> None:
        if not self._told:
            self._told = True
            self._reporter.tell(
                "keys_kept", f"{reason}; the keys that were there stay right", level="warning"
            )


def _token(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What follows `Bearer`; nothing where that is not the scheme, or where there are two headers."""
    shown = [value for name, value in headers if name == b"authorization"]
    scheme, _, token = shown[0].partition(b" ") if len(shown) == 1 else (b"", b"", b"")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""
