"""Who may import whom."""

import sys

import pytest
from source import CONTRACT, SERVICES, tracked

OURS = {CONTRACT, *SERVICES.values()}
LIGHT = {"pydantic", "pydantic_core", "tqdm", "yaml"}


@pytest.mark.parametrize("folder", SERVICES)
def test_a_service_imports_the_contract_and_never_another_service(folder: str) -> None:
    allowed = {SERVICES[folder]} | (set() if folder == "chat-cli" else {CONTRACT})
    sources = tracked(f"services/{folder}/src")
    assert sources
    for source in sources:
        assert not (source.imports & OURS) - allowed, source.name


def test_the_contract_needs_nothing_but_pydantic_yaml_and_a_progress_bar() -> None:
    sources = tracked("contract/src")
    assert sources
    for source in sources:
        others = source.imports - LIGHT - {CONTRACT} - sys.stdlib_module_names
        assert not others, f"{source.name} imports {others}"


def test_every_service_is_known_to_these_tests() -> None:
    folders = {source.name.split("/")[1] for source in tracked("services")}
    assert folders == set(SERVICES)


def test_there_is_no_junk_drawer() -> None:
    for source in tracked():
        assert source.path.stem not in {"utils", "util", "common", "helpers", "misc"}, source.name
