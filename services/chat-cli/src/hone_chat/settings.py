"""What one run was told: the command line, else the environment, else a profile, else the default."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hone_chat.places import config_file, history_file
from hone_chat.presets import PRESETS
from hone_chat.profiles import Profile, find_profile
from hone_chat.sampling import RULES, Sampling
from hone_chat.server import DEFAULT_URL, KeyFile, Server, checked_address, find_key

COMPARE_OFF = "off"
"""In place of a model's name: no second model."""
_DEFAULT_TIMEOUT = 600.0


@dataclass(frozen=True)
class Settings:
    """Everything one run needs to know, checked."""

    question: str | None
    server: Server
    model: str | None
    compares: bool
    second_model: str | None
    second_server: Server | None
    system: str | None
    sampling: Sampling
    plain: bool
    json: bool
    stats: bool
    history: Path | None


def make_settings(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Join the options with the environment and the profile."""
    profile = _find_profile(options, environment)
    second_server = _second_server(options, environment, profile)
    second_model = options.compare or profile.compare
    compares = options.compare != COMPARE_OFF and bool(second_model or second_server)
    keeps_history = profile.history and not options.no_history
    return Settings(
        question=options.question,
        server=_server(options, environment, profile),
        model=options.model or profile.model,
        compares=compares,
        second_model=second_model if compares else None,
        second_server=second_server,
        system=options.system if options.system is not None else profile.system,
        sampling=_sampling(options, profile),
        plain=options.plain or profile.plain,
        json=options.json,
        stats=options.stats,
        history=history_file(environment) if keeps_history else None,
    )


def _find_profile(options: argparse.Namespace, environment: Mapping[str, str]) -> Profile:
    named = options.config is not None
    file = Path(options.config) if named else config_file(environment)
    return find_profile(options.profile, file, required=named)


def _sampling(options: argparse.Namespace, profile: Profile) -> Sampling:
    base = PRESETS[options.preset] if options.preset else profile.sampling
    own = {name: getattr(options, name) for name in RULES}
    return replace(base, **{name: value for name, value in own.items() if value is not None})


def _server(options: argparse.Namespace, environment: Mapping[str, str], profile: Profile) -> Server:
    told = options.base_url or environment.get("HONE_URL")
    named_by = "--base-url or HONE_URL" if told else f"base_url of {profile.where}"
    file = None
    # A profile's key is for the profile's server, not for another that was named in its place.
    if profile.key_file and not (told and profile.base_url):
        file = KeyFile(profile.key_file, f"key_file of {profile.where}")
    return Server(
        base_url=checked_address(told or profile.base_url or DEFAULT_URL, named_by),
        timeout=options.timeout or profile.timeout or _DEFAULT_TIMEOUT,
        key=find_key(environment, "HONE_API_KEY", file),
    )


def _second_server(
    options: argparse.Namespace, environment: Mapping[str, str], profile: Profile
) -> Server | None:
    told = options.compare_url
    url = told or profile.compare_url
    if not url:
        return None
    file = None
    if profile.compare_key_file and not told:
        file = KeyFile(profile.compare_key_file, f"compare_key_file of {profile.where}")
    return Server(
        base_url=checked_address(url, "--compare-url" if told else f"compare_url of {profile.where}"),
        timeout=options.timeout or profile.timeout or _DEFAULT_TIMEOUT,
        key=find_key(environment, "HONE_COMPARE_API_KEY", file),
        option="--compare-url",
        variable="HONE_COMPARE_API_KEY",
    )
