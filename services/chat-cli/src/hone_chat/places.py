"""Where this user's files lie, by the XDG base directory specification."""

from collections.abc import Mapping
from pathlib import Path

from hone_chat.errors import BadInput


def config_file(environment: Mapping[str, str]) -> Path | None:
    """The file with the profiles; None: the user has no home."""
    return _below("XDG_CONFIG_HOME", ".config", "chat.toml", environment)


def history_file(environment: Mapping[str, str]) -> Path | None:
    """The file with the questions asked; None: the user has no home."""
    return _below("XDG_STATE_HOME", ".local/state", "chat-history", environment)


def typed_path(text: str) -> Path:
    """A path as a person typed it: ~ is the home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{text}: there is no such home. Write the whole path.") from error


def _below(variable: str, default: str, name: str, environment: Mapping[str, str]) -> Path | None:
    base, home = environment.get(variable, ""), environment.get("HOME")
    # A relative path is to be ignored, says the specification.
    if base.startswith("/"):
        return Path(base) / "hone" / name
    return Path(home) / default / "hone" / name if home else None
