"""Options and environment, in this process."""

import dataclasses
import sys
from pathlib import Path

import pytest

from hone_contract.errors import BadConfiguration
from hone_server.limits import Limits, RateLimits
from hone_server.settings import Settings, parse_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HONE_API_KEY", "HONE_API_KEY_FILE", "HONE_ALLOW_KEYLESS", "HONE_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> "Parse":
    return Parse(monkeypatch)


class Parse:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> Settings:
        self.monkeypatch.setattr(sys, "argv", ["hone-server", *arguments])
        return parse_settings()

    def is_refused(self, *arguments: str) -> bool:
        with pytest.raises((BadConfiguration, SystemExit)) as found:
            self(*arguments)
        return not isinstance(found.value, SystemExit) or found.value.code == 78


def test_nothing_need_be_said(parse: Parse) -> None:
    settings = parse()
    assert (settings.limits, settings.rates) == (Limits(), RateLimits())
    assert (settings.keys, settings.key_file, settings.keyless, settings.open_metrics) == (
        (),
        None,
        False,
        False,
    )
    assert (settings.base, settings.model) == (None, None)


def test_every_limit_has_an_option(parse: Parse) -> None:
    names = [field.name for field in dataclasses.fields(Limits)]
    options = [text for name in names for text in (f"--max-{name.replace('_', '-')}", "7")]
    settings = parse(*options, "--rate-limit", "60/minute", "--token-limit", "100000/hour")
    assert dataclasses.asdict(settings.limits) == dict.fromkeys(names, 7)
    assert settings.rates == RateLimits(requests="60/minute", tokens="100000/hour")


def test_vllms_own_limits_can_follow() -> None:
    assert Limits(n=3, stop=5, prompts=6).environment() == {
        "VLLM_MAX_N_SEQUENCES": "3",
        "VLLM_MAX_STOP_STRINGS": "5",
        "VLLM_MAX_COMPLETION_PROMPTS": "6",
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-n", "many"),
        ("--max-n", "-1"),
        ("--max-n", "1.5"),
        ("--max-body", ""),
        ("--rate-limit", "fast"),
        ("--rate-limit", "0/minute"),
        ("--rate-limit", "60/fortnight"),
        ("--token-limit", "10 per hour"),
        ("--drain", "-1"),
        ("--drain", "nan"),
        ("--drain", "inf"),
        ("--hang", "0"),
        ("--hang", "nan"),
        ("--adapters-at-once", "0"),
        ("--adapters-loaded", "1"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(parse: Parse, option: str, value: str) -> None:
    assert parse.is_refused(option, value)


def test_a_base_and_a_merged_model_exclude_each_other(parse: Parse) -> None:
    assert parse.is_refused("--model", "a", "--base", "b")
    assert parse("--base", "b").base == "b"


@pytest.mark.parametrize(
    "argument",
    [
        "--logits-processors",
        "--worker-extension-cls=a.B",
        "--worker_extension_cls",
        "--enable-lora",
        "--enable-lor",
        "--enable_lora_bias",
        "--lora-modules",
        "--lora-config.x",
        "--max-loras",
        "--max-lora-rank",
        "--shutdown-timeout",
        "--disable-log-stats",
        "--enable-prompt-embeds",
        "--allowed-media-domains",
        "--allowed-local-media-path",
        "--trust-request-mm-kwargs",
        "--enable-request-id-headers",
        "--root-path",
        "--api-server-count",
        "-asc",
        "--middleware",
    ],
)
def test_what_would_break_the_server_is_not_passed_to_vllm(parse: Parse, argument: str) -> None:
    assert parse.is_refused("--", argument)


@pytest.mark.parametrize("argument", ["--max-model-len", "--max-logprobs", "-tp", "--enable-prefix-caching"])
def test_the_rest_is_passed_to_vllm(parse: Parse, argument: str) -> None:
    assert parse("--", argument, "1").vllm_arguments == ("--", argument, "1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_without_a_key_only_this_machine_may_come_in(parse: Parse, host: str) -> None:
    assert parse.is_refused("--host", host)


@pytest.mark.parametrize("value", ["0", "", "true", " 1"])
def test_a_server_without_keys_must_be_wanted_in_so_many_words(
    parse: Parse, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HONE_ALLOW_KEYLESS", value)
    assert parse.is_refused("--host", "0.0.0.0")


def test_a_server_without_keys_can_be_wanted(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_ALLOW_KEYLESS", "1")
    assert parse("--host", "0.0.0.0").keyless
    assert not parse("--host", "127.0.0.1").keyless
    monkeypatch.setenv("HONE_API_KEY", "secret")
    assert not parse("--host", "0.0.0.0").keyless


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_no_key(parse: Parse, host: str) -> None:
    assert not parse("--host", host).keyless


def test_what_is_remembered_lies_where_it_was_said(
    parse: Parse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert parse().state == tmp_path / "xdg/hone"
    monkeypatch.setenv("HONE_STATE", str(tmp_path / "here"))
    assert parse().state == tmp_path / "here"
