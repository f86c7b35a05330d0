"""One of several machines that train a run together: the same command on each, told which it is by variables.

They are those that torchrun takes its options from (`PET_` and an option's name:
https://docs.pytorch.org/docs/stable/elastic/run.html), which Kubeflow's Trainer sets in a pod as well.
"""

import os
from dataclasses import dataclass

from hone_contract.errors import BadConfiguration

_COUNT, _NUMBER, _ADDRESS, _PORT = "PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"
_PROCESSES = "PET_NPROC_PER_NODE"
_TORCHRUNS_PORT = "29500"


@dataclass(frozen=True)
class Node:
    """This machine among the others; alone, unless the environment says more."""

    count: int = 1
    number: int = 0
    address: str = "127.0.0.1"
    """Of the first machine, whose first process all others find at `port`."""
    port: int = 0


ALONE = Node()


def this_node() -> Node:
    """Which one this machine is.

    Raises BadConfiguration when the environment does not say it in full.
    """
    count = _number(_COUNT, "1")
    if count <= 1:
        return ALONE
    if missing := [name for name in (_NUMBER, _ADDRESS) if not os.environ.get(name)]:
        raise BadConfiguration(f"{_COUNT} is {count}, but {missing[0]} is missing; set it on every machine")
    number, port = _number(_NUMBER), _number(_PORT, _TORCHRUNS_PORT)
    if number >= count:
        raise BadConfiguration(f"{_NUMBER} is {number}, but {_COUNT} is {count}; count the machines from 0")
    return Node(count, number, os.environ[_ADDRESS], port)


def processes_here() -> int | None:
    """How many processes are to train on this machine. None: one for each of its GPUs."""
    if os.environ.get(_PROCESSES, "auto") in ("auto", "gpu"):
        return None
    return max(1, _number(_PROCESSES))


def _number(name: str, otherwise: str = "") -> int:
    text = os.environ.get(name, otherwise)
    if not text.isdecimal():
        raise BadConfiguration(f"{name}: {text!r} is no number")
    return int(text)
