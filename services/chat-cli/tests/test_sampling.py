"""The sampling settings: presets, options, and /params."""

import pytest
from chat_process import Run, Terminal, told
from chat_script import Script

from hone_chat.errors import BadInput
from hone_chat.parameters import changed
from hone_chat.presets import PRESETS
from hone_chat.rule import Rule
from hone_chat.sampling import RULES, Sampling

GUIDE = {
    "temperature": 0.8,
    "top_p": 0.9,
    "max_tokens": 512,
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 3,
}


def sampled(script: Script) -> dict[str, object]:
    """What the last request said of the sampling."""
    return {name: script.asked[-1][name] for name in RULES if name in script.asked[-1]}


@pytest.mark.parametrize(
    ("preset", "sent"), [("guide", GUIDE), ("precise", {"temperature": 0.0}), ("server", {})]
)
def test_a_preset_is_sent(preset: str, sent: dict[str, object], run: Run, script: Script) -> None:
    assert run("Hello", "--preset", preset).code == 0
    assert sampled(script) == sent


def test_an_option_wins_over_the_preset(run: Run, script: Script) -> None:
    run("Hello", "--temperature", "0", "--preset", "guide", "--seed", "-1")
    assert sampled(script) == {**GUIDE, "temperature": 0.0, "seed": -1}


def test_an_unknown_preset_exits_78_and_names_those_there_are(run: Run, script: Script) -> None:
    err = told(run("Hello", "--preset", "guid"), 78)
    assert "must be a preset (guide, precise, server), not 'guid'. Did you mean guide?" in err
    assert not script.asked


def test_every_setting_has_a_rule_and_every_preset_keeps_it() -> None:
    assert list(RULES) == list(Sampling.__dataclass_fields__)
    for preset in PRESETS.values():
        assert all(RULES[name].check(value) == value for name, value in preset.given().items())


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), 0, 1.5])
def test_a_rule_refuses_what_is_no_such_number(value: object) -> None:
    rule = Rule("a whole number above 0", lambda number: number > 0, whole=True)
    with pytest.raises(ValueError, match="must be a whole number above 0, not"):
        rule.check(value)


def test_params_shows_changes_and_takes_presets(plain: Terminal, script: Script) -> None:
    shown = plain.ask("/params temperature=0.2 max-tokens=100")
    assert "temperature           0.2\r\n" in shown
    assert "seed                  left to the server\r\n" in shown
    plain.ask("Hello")
    assert sampled(script) == {"temperature": 0.2, "max_tokens": 100}
    assert "This is the preset guide." in plain.ask("/params guide")
    plain.ask("/params top_p=none seed=7")
    plain.ask("Hello")
    assert sampled(script) == {**{name: GUIDE[name] for name in GUIDE if name != "top_p"}, "seed": 7}


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ("temprature=1", "no setting 'temprature'; .* Did you mean temperature?"),
        ("guied", "no preset 'guied'; there is: guide, precise, server. Did you mean guide?"),
        ("temperature", "temperature needs a value: /params temperature=VALUE"),
        ("temperature=hot", "temperature must be a number of 0 or more, not 'hot'"),
        ("max_tokens=0.5", "max_tokens must be a whole number of 1 or more, not '0.5'"),
    ],
)
def test_a_wrong_wish_changes_nothing(wishes: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        changed(Sampling(seed=1), f"seed=2 {wishes}")
