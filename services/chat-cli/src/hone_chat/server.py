"""One server: where it is, what lets us in, and how long its silence is borne."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hone_chat.errors import BadConfiguration

DEFAULT_URL = "http://127.0.0.1:8000/v1"


@dataclass(frozen=True)
class Key:
    """What lets us in at the server, and where it was found."""

    value: str = field(repr=False)
    source: str


@dataclass(frozen=True)
class KeyFile:
    """A file with a key, and what names it."""

    path: Path
    named_by: str


@dataclass(frozen=True)
class Server:
    """A server, checked; `option` and `variable` are what a message tells the user to correct."""

    base_url: str
    timeout: float
    key: Key | None
    option: str = "--base-url"
    variable: str = "HONE_API_KEY"


def checked_address(url: str, named_by: str) -> str:
    """The address without a slash at its end; one that cannot be a server's is a BadConfiguration."""
    try:
        parts = urlsplit(url)
        # Reading `port` checks it; encoding finds names that no resolver takes.
        complete = parts.port != 0 and bool((parts.hostname or "").encode("idna"))
    except ValueError:
        raise _bad_address(url, named_by) from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not repeated: a password or a token may be in it.
        raise BadConfiguration(
            "The server's address must be free of user names, passwords, ? and #. "
            "A key goes into HONE_API_KEY."
        )
    usable = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not complete or not usable:
        raise _bad_address(url, named_by)
    return url.rstrip("/")


def find_key(environment: Mapping[str, str], variable: str, file: KeyFile | None) -> Key | None:
    """The key in the variable, else in the file that NAME_FILE names, else in `file`, if there is one."""
    # A server's HONE_API_KEY may hold several keys, separated by commas; any of them will do.
    value = environment.get(variable, "").partition(",")[0].strip()
    if value:
        return _checked_key(value, variable)
    path = environment.get(f"{variable}_FILE")
    if path:
        file = KeyFile(Path(path), f"{variable}_FILE")
    if file is None:
        return None
    return _checked_key(_read_key(file), f"the file {file.path} ({file.named_by})")


def _bad_address(url: str, named_by: str) -> BadConfiguration:
    shown = url.rpartition("@")[2]
    return BadConfiguration(f"{shown!r} is not a server's address. Write {named_by} like {DEFAULT_URL}")


def _checked_key(value: str, source: str) -> Key:
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise BadConfiguration(f"The key in {source} is not one word of ASCII. Copy it again.")
    return Key(value=value, source=source)


def _read_key(file: KeyFile) -> str:
    names = f"{file.named_by} names {file.path}"
    try:
        value = file.path.read_text("utf-8").strip()
    except OSError as error:
        raise BadConfiguration(
            f"{names}, which cannot be read: {error.strerror}. Correct the path or the file's permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{names}, which is not a text file. Name the key's file.") from error
    if not value:
        raise BadConfiguration(f"{names}, which is empty. Put the key in.")
    return value
