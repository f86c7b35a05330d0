"""What one run was told: the command line, with the environment for what it leaves open."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hone_chat.errors import BadConfiguration

_DEFAULT_URL = "http://127.0.0.1:8000/v1"


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; None leaves a choice to the server."""

    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    repetition_penalty: float | None
    seed: int | None


@dataclass(frozen=True)
class Key:
    """What lets us in at the server, and where it was found."""

    value: str = field(repr=False)
    source: str


@dataclass(frozen=True)
class Settings:
    """Everything one run needs to know, checked."""

    question: str | None
    base_url: str
    model: str | None
    system: str | None
    sampling: Sampling
    timeout: float
    plain: bool
    key: Key | None


def make_settings(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Join the options with the environment; options win."""
    return Settings(
        question=options.question,
        base_url=_address(options.base_url or environment.get("HONE_URL") or _DEFAULT_URL),
        model=options.model,
        system=options.system,
        sampling=Sampling(
            temperature=options.temperature,
            top_p=options.top_p,
            max_tokens=options.max_tokens,
            repetition_penalty=options.repetition_penalty,
            seed=options.seed,
        ),
        timeout=options.timeout,
        plain=options.plain,
        key=_find_key(environment),
    )


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        # Reading `port` checks it; encoding finds names that no resolver takes.
        complete = parts.port != 0 and bool((parts.hostname or "").encode("idna"))
    except ValueError:
        raise _bad_address(url) from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not repeated: a password or a token may be in it.
        raise BadConfiguration(
            "The server's address must be free of user names, passwords, ? and #. "
            "A key goes into HONE_API_KEY."
        )
    usable = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not complete or not usable:
        raise _bad_address(url)
    return url.rstrip("/")


def _bad_address(url: str) -> BadConfiguration:
    shown = url.rpartition("@")[2]
    return BadConfiguration(
        f"{shown!r} is not a server's address. Write --base-url or HONE_URL like {_DEFAULT_URL}"
    )


def _find_key(environment: Mapping[str, str]) -> Key | None:
    # A server's HONE_API_KEY may hold several keys, separated by commas; any of them will do.
    value = environment.get("HONE_API_KEY", "").partition(",")[0].strip()
    source = "HONE_API_KEY"
    path = environment.get("HONE_API_KEY_FILE")
    if not value and path:
        source = f"the file {path} (HONE_API_KEY_FILE)"
        value = _read_key(path)
    if not value:
        return None
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise BadConfiguration(f"The key in {source} is not one word of ASCII. Copy it again.")
    return Key(value=value, source=source)


def _read_key(path: str) -> str:
    try:
        value = Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise BadConfiguration(
            f"HONE_API_KEY_FILE names {path}, which cannot be read: {error.strerror}. "
            "Correct the path or the file's permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(
            f"HONE_API_KEY_FILE names {path}, which is not a text file. Name the key's file."
        ) from error
    if not value:
        raise BadConfiguration(f"HONE_API_KEY_FILE names {path}, which is empty. Put the key in.")
    return value
