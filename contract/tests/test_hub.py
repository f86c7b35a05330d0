"""The Hub's token, and names of repositories, as every service reads them."""

import pytest

from hone_contract.errors import BadConfiguration
from hone_contract.hub import VARIABLES, hub_repository, hub_token


@pytest.fixture(autouse=True)
def _none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_there_need_not_be_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_token() is None
    monkeypatch.setenv("HF_TOKEN", "")
    assert hub_token() is None


def test_the_first_variable_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUGGINGFACE_HUB_TOKEN", "hf_second")
    assert hub_token() == "hf_second"
    monkeypatch.setenv("HF_TOKEN", "hf_first")
    assert hub_token() == "hf_first"


def test_a_line_break_at_the_end_of_a_file_is_not_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", " hf_first\r\n")
    assert hub_token() == "hf_first"


@pytest.mark.parametrize(
    "text", ["hf_secret of mine", "hf_secreté", "hf_secret\nX-Header: 1", "hf_\x1bsecret"]
)
def test_what_no_header_can_have_is_refused_and_not_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HF_TOKEN", text)
    with pytest.raises(BadConfiguration, match="HF_TOKEN") as told:
        hub_token()
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("origin", "repository"),
    [
        ("hub:Qwen/Qwen2.5-1.5B@989aa79#main", "Qwen/Qwen2.5-1.5B"),
        ("hub:Qwen/Qwen2.5-1.5B@989aa79", "Qwen/Qwen2.5-1.5B"),
        ("folder:mine", None),
        ("", None),
    ],
)
def test_a_lineage_names_a_repository(origin: str, repository: str | None) -> None:
    assert hub_repository(origin) == repository
