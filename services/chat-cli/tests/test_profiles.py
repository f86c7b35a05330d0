"""The config file and its profiles."""

import os
from pathlib import Path

import pytest
from chat_process import Outcome, Run, told
from chat_script import Script
from chat_server import serving


class Config:
    """A config file that a run is pointed to."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._home = folder
        self.file = folder / "hone/chat.toml"
        self.file.parent.mkdir()

    def write(self, text: str) -> None:
        self.file.write_text(text, "utf-8")

    def run(self, *arguments: str, **more: str) -> Outcome:
        return self._run("Hello", *arguments, XDG_CONFIG_HOME=str(self._home), **more)


@pytest.fixture
def config(run: Run, tmp_path: Path) -> Config:
    return Config(run, tmp_path)


def test_the_default_profile_sets_what_nothing_else_does(config: Config, script: Script) -> None:
    script.models = ["base", "tuned"]
    config.write(
        'default_profile = "mine"\n[profiles.mine]\nmodel = "tuned"\nsystem = "Briefly."\n'
        'preset = "guide"\ntop_p = 1\nseed = 3\n'
    )
    assert config.run("--temperature", "0").code == 0
    (asked,) = script.asked
    assert (asked["model"], script.said()[0]) == ("tuned", "system: Briefly.")
    assert (asked["top_p"], asked["seed"], asked["max_tokens"], asked["temperature"]) == (1.0, 3, 512, 0.0)


def test_a_preset_takes_the_place_of_the_profiles_sampling(config: Config, script: Script) -> None:
    config.write('default_profile = "mine"\n[profiles.mine]\ntop_p = 0.5\nseed = 3\n')
    config.run("--preset", "server")
    assert not script.asked[0].keys() & {"top_p", "seed"}


def test_the_environment_wins_over_the_profile(config: Config, script: Script) -> None:
    config.write('[profiles.mine]\nbase_url = "http://127.0.0.1:9/v1"\nkey_file = "key"\n')
    (config.file.parent / "key").write_text("sk-hidden")
    assert config.run("--profile", "mine").out == "Paris.\n"
    # The key is for the profile's own server.
    assert "sk-hidden" not in str(script.headers)


def test_the_profiles_address_and_key_are_used(config: Config, script: Script) -> None:
    with serving() as other:
        other.script.key = "sk-other"
        config.write(f'[profiles.mine]\nbase_url = "{other.url}"\nkey_file = "key"\n')
        (config.file.parent / "key").write_text("sk-other\n")
        assert config.run("--profile", "mine", HONE_URL="").out == "Paris.\n"
        (config.file.parent / "key").write_text("sk-wrong\n")
        err = told(config.run("--profile", "mine", HONE_URL=""), 78)
        assert f"the key from the file {config.file.parent}/key (key_file of profiles.mine in " in err
        assert "sk-wrong" not in err
    assert not script.asked


def test_a_profile_can_compare_and_an_option_can_stop_it(config: Config, script: Script) -> None:
    script.models = ["base", "tuned"]
    config.write('default_profile = "mine"\n[profiles.mine]\ncompare = "tuned"\n')
    assert config.run().out == "== base ==\nParis.\n\n== tuned ==\nParis.\n"
    assert config.run("--compare", "off").out == "Paris.\n"


def test_without_a_file_there_is_no_profile(config: Config, tmp_path: Path) -> None:
    assert config.run().out == "Paris.\n"
    err = told(config.run("--profile", "mine"), 78)
    assert f"{config.file} cannot be read: No such file or directory." in err
    assert "nowhere.toml cannot be read" in told(config.run("--config", f"{tmp_path}/nowhere.toml"), 78)


def test_another_file_can_be_named(config: Config, script: Script, tmp_path: Path) -> None:
    file = tmp_path / "another.toml"
    file.write_text("[profiles.mine]\nseed = 9\n")
    config.run("--config", str(file), "--profile", "mine")
    assert script.asked[0]["seed"] == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[profiles.mine\n", "chat.toml is not TOML: "),
        (
            "[profiles.mine]\ntemprature = 1\n",
            "profiles.mine.temprature: there is no such setting. Did you mean temp",
        ),
        ("[profile.mine]\n", ": profile: there is no such setting. Did you mean profiles?"),
        (
            "[profiles.mine]\ntemperature = 'hot'\n",
            "profiles.mine.temperature must be a number of 0 or more, not 'hot'.",
        ),
        ("[profiles.mine]\nseed = 1.5\n", "profiles.mine.seed must be a whole number, not 1.5."),
        (
            "[profiles.mine]\nmax_tokens = true\n",
            "profiles.mine.max_tokens must be a whole number of 1 or more, not True.",
        ),
        (
            "[profiles.mine]\npreset = 'guid'\n",
            "profiles.mine.preset must be a preset (guide, precise, server), not 'guid'",
        ),
        ("[profiles.mine]\nmodel = 3\n", "profiles.mine.model must be a text, not 3."),
        ("[profiles.mine]\nplain = 1\n", "profiles.mine.plain must be true or false, not 1."),
        (
            "[profiles.mine]\nkey_file = '~no-such-user/key'\n",
            "profiles.mine.key_file is '~no-such-user/key': there is no",
        ),
        (
            "default_profile = 'mien'\n[profiles.mine]\n",
            "default_profile: there is no profile 'mien'; there is: mine. Did",
        ),
        ("default_profile = 1\n[profiles.mine]\n", "default_profile: there is no profile 1; there is: mine."),
        ("[profiles]\nmine = 3\n", "profiles must be tables: [profiles.NAME]"),
        ("", "there is no profile 'mine'; there is: none."),
        ("[profiles.main]\n", "there is no profile 'mine'; there is: main. Did you mean main?"),
        (
            "[profiles.mine]\nbase_url = 'here'\n",
            "'here' is not a server's address. Write base_url of profiles.mine in ",
        ),
    ],
)
def test_a_wrong_file_exits_78_and_is_named(text: str, message: str, config: Config, script: Script) -> None:
    config.write(text)
    err = told(config.run("--profile", "mine", HONE_URL=""), 78)
    assert message in err
    assert str(config.file) in err
    assert not script.headers


@pytest.mark.parametrize("name", ["key", "api_key", "token"])
def test_a_key_in_the_file_is_refused_and_not_repeated(name: str, config: Config) -> None:
    config.write(f'[profiles.mine]\n{name} = "sk-hidden"\n')
    err = told(config.run(), 78)
    assert f"profiles.mine.{name}: a key does not belong into this file." in err
    assert "sk-hidden" not in err


def test_a_file_that_may_not_be_reached_is_no_file(run: Run) -> None:
    assert run("Hello", XDG_CONFIG_HOME="/dev/null").out == "Paris.\n"
    assert run("Hello", XDG_CONFIG_HOME="relative", HOME=os.devnull).out == "Paris.\n"
    assert run("Hello", XDG_CONFIG_HOME="", HOME="").out == "Paris.\n"
