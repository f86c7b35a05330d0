"""What a machine knows of the others that train with it, and what its processes are told then."""

import os

import pytest

from hone_contract.errors import BadConfiguration
from hone_trainer import launch
from hone_trainer.node import ALONE, Node, processes_here, this_node

SECOND = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "first", "PET_MASTER_PORT": "29400"}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECOND, "PET_NPROC_PER_NODE"):
        monkeypatch.delenv(name, raising=False)


def _set(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_machine_is_alone_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_node() is ALONE
    _set(monkeypatch, PET_NNODES="1")
    assert this_node() is ALONE


def test_the_variables_of_torchrun_say_which_one_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, **SECOND)
    assert this_node() == Node(2, 1, "first", 29400)
    monkeypatch.delenv("PET_MASTER_PORT")
    assert this_node().port == 29500


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"PET_NNODES": "1:4"}, "PET_NNODES: '1:4' is no number"),
        ({"PET_NODE_RANK": ""}, "PET_NODE_RANK is missing"),
        ({"PET_MASTER_ADDR": ""}, "PET_MASTER_ADDR is missing"),
        ({"PET_NODE_RANK": "2"}, "count the machines from 0"),
        ({"PET_MASTER_PORT": "http"}, "PET_MASTER_PORT: 'http' is no number"),
    ],
)
def test_what_is_wrong_or_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], told: str
) -> None:
    _set(monkeypatch, **SECOND | wrong)
    with pytest.raises(BadConfiguration, match=told):
        this_node()


@pytest.mark.parametrize(("said", "expected"), [(None, None), ("auto", None), ("gpu", None), ("3", 3)])
def test_how_many_processes_a_machine_has(
    monkeypatch: pytest.MonkeyPatch, said: str | None, expected: int | None
) -> None:
    if said is not None:
        _set(monkeypatch, PET_NPROC_PER_NODE=said)
    assert processes_here() == expected


def test_processes_are_counted_over_all_machines() -> None:
    told = launch._environment(os.environ, 2, 4, Node(3, 1, "first", 29400))
    assert (told["RANK"], told["LOCAL_RANK"]) == ("6", "2")
    assert (told["WORLD_SIZE"], told["LOCAL_WORLD_SIZE"]) == ("12", "4")
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("first", "29400")
