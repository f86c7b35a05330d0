"""The config file: named sets of defaults. It holds no key, only the path of a key's file.

default_profile = "local"

[profiles.local]
base_url = "http://127.0.0.1:8000/v1"
preset = "guide"
"""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hone_chat.errors import BadConfiguration
from hone_chat.presets import find_preset
from hone_chat.rule import SECONDS
from hone_chat.sampling import RULES, Sampling
from hone_chat.spelling import did_you_mean

_KEYS_THEMSELVES = {"key", "api_key", "apikey", "token", "password", "secret"}


@dataclass(frozen=True)
class Profile:
    """One table of the file, checked. What it does not name stays as it is without a profile."""

    where: str = ""
    """How a message names the table; empty: there is none."""

    base_url: str | None = None
    """The server's address. None: HONE_URL or the default holds."""

    model: str | None = None
    """The model to ask. None: the first that the server lists."""

    system: str | None = None
    """The system prompt. None: there is none."""

    sampling: Sampling = field(default_factory=Sampling)
    """The preset, if one is named, with the table's own values on top."""

    timeout: float | None = None
    """The longest silence that is waited out. None: the default holds."""

    key_file: Path | None = None
    """The file with the key of base_url. None: only the environment names one."""

    compare: str | None = None
    """The model to set beside the first. None: no comparison, or the first of compare_url."""

    compare_url: str | None = None
    """The second model's server. None: it is on the same server."""

    compare_key_file: Path | None = None
    """The file with the key of compare_url. None: only the environment names one."""

    plain: bool = False
    """Whether markdown is left as it is."""

    history: bool = True
    """Whether questions are kept for the next conversation."""


def find_profile(name: str | None, file: Path | None, *, required: bool) -> Profile:
    """The named profile, else the default one, else an empty one; `required`: the file must be there."""
    if file is None:
        if name is None:
            return Profile()
        raise BadConfiguration(f"There is no profile {name!r}: there is no HOME. Name its file: --config.")
    profiles, default = _checked(_read(file, required=required or name is not None), file)
    chosen = default if name is None else name
    return Profile() if chosen is None else _chosen(chosen, profiles, f"{file}: ")


def _read(file: Path, *, required: bool) -> dict[str, Any]:
    # A home that this user may not enter has no file either, as in some containers.
    if not required and not os.path.exists(file):
        return {}
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BadConfiguration(f"{file} cannot be read: {error.strerror}. Name another: --config.") from error
    except ValueError as error:
        # TOMLDecodeError and UnicodeDecodeError are both of this kind.
        raise BadConfiguration(f"{file} is not TOML: {error}. Correct it.") from error


def _checked(document: Mapping[str, Any], file: Path) -> tuple[dict[str, Profile], str | None]:
    _refuse_unknown(document, {"default_profile", "profiles"}, f"{file}: ")
    default, tables = document.get("default_profile"), document.get("profiles", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise BadConfiguration(f"{file}: profiles must be tables: [profiles.NAME]")
    profiles = {name: _profile(table, f"profiles.{name}", file) for name, table in tables.items()}
    if default is not None:
        _chosen(default, profiles, f"{file}: default_profile: ")
    return profiles, default


def _chosen(name: object, profiles: Mapping[str, Profile], place: str) -> Profile:
    if not (isinstance(name, str) and name in profiles):
        known = ", ".join(profiles) or "none"
        hint = did_you_mean(str(name), profiles)
        raise BadConfiguration(f"{place}there is no profile {name!r}; there is: {known}.{hint}")
    return profiles[name]


def _profile(table: Mapping[str, Any], title: str, file: Path) -> Profile:
    _refuse_unknown(table, _READERS, f"{file}: {title}.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        try:
            values[key] = _READERS[key](value)
        except ValueError as error:
            raise BadConfiguration(f"{file}: {title}.{key} {error}.") from error
    own = {name: values.pop(name) for name in RULES if name in values}
    sampling = replace(values.pop("preset", Sampling()), **own)
    for key in ("key_file", "compare_key_file"):
        # A path is seen from the file that names it.
        values |= {key: file.parent / values[key]} if key in values else {}
    return Profile(where=f"{title} in {file}", sampling=sampling, **values)


def _refuse_unknown(table: Iterable[str], known: Iterable[str], place: str) -> None:
    for key in table:
        if key in known:
            continue
        if key.lower() in _KEYS_THEMSELVES:
            raise BadConfiguration(
                f"{place}{key}: a key does not belong into this file. "
                "Put it into a file of its own and name that: key_file."
            )
        raise BadConfiguration(f"{place}{key}: there is no such setting.{did_you_mean(key, known)}")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    return value


def _path(value: object) -> Path:
    try:
        return Path(_text(value)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"is {value!r}: there is no such home") from error


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


_READERS: dict[str, Callable[[Any], object]] = {
    "base_url": _text,
    "model": _text,
    "system": _text,
    "preset": lambda value: find_preset(_text(value)),
    **{name: rule.check for name, rule in RULES.items()},
    "timeout": SECONDS.check,
    "key_file": _path,
    "compare": _text,
    "compare_url": _text,
    "compare_key_file": _path,
    "plain": _flag,
    "history": _flag,
}
