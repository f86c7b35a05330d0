"""Several processes that train one model: who is who, and what they do together."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hone_contract.errors import BadConfiguration, HoneError, RetryableFailure
from hone_trainer import launch
from hone_trainer.training.checkpoints import Checkpoints

Done = TypeVar("Done")

_STEP = timedelta(minutes=15)
"""For what all processes do at the same time. One that ends is noticed at once; this is for a cut network."""
_WORK = timedelta(hours=12)
"""For what they wait for while the first one works: it fetches a base, prepares data, writes to a disk."""
_LOST = re.compile(r"gloo|NCCL|TCPStore|Connection (closed|reset)|Broken pipe")

_FAREWELL = 10.0
"""Seconds that the first one waits for the others to hear that it has ended its work."""
_EVERY = 0.2

_patient: list[Any] = []
"""The group of all processes that waits so long."""
_meeting: list[Any] = []
"""Where they found each other: it lives as long as the first one does, which may outlive the group."""


def world() -> int:
    """How many processes train this run."""
    return dist.get_world_size() if _patient else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if _patient else 0


def join() -> None:
    """Meet the other processes that the environment tells of.

    On GPUs this one takes its own. Raises BadConfiguration when there are too few.
    """
    on_gpu = torch.cuda.is_available()
    # accelerate would warn that nobody says how many, and choose by itself.
    os.environ.setdefault("OMP_NUM_THREADS", str(launch.threads(launch.world_here())))
    if on_gpu:
        _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    _meeting.append(_store())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=_meeting[0],
        rank=launch.rank(),
        world_size=launch.world(),
        timeout=_STEP,
    )
    _patient.append(dist.new_group(backend="gloo", timeout=_WORK))


def leave() -> None:
    """What comes after needs the others no more."""
    if _patient:
        _patient.clear()
        dist.destroy_process_group()


def stay_for_the_first() -> None:
    """Wait until the first process has ended its work; it waits until all others know.

    If it is begun again because it failed while it proved or sealed, it needs the others again, and on
    other machines nobody begins those again that ended well.
    """
    store = _meeting[0]
    if launch.rank() > 0:
        while not store.check(["ended"]):
            time.sleep(_EVERY)
        store.add("heard", 1)
        return
    store.set("ended", "1")
    until = time.monotonic() + _FAREWELL
    while store.add("heard", 0) < launch.world() - 1 and time.monotonic() < until:
        time.sleep(_EVERY / 10)


def first_does(work: Callable[[], Done]) -> Done:
    """What `work` gives in the first process; the others wait for it.

    When it fails there with a HoneError, the others leave with its code, and tell nothing.
    """
    if world() == 1:
        return work()
    if rank() == 0:
        try:
            done = work()
        except HoneError as error:
            _say((None, error.exit_code))
            raise
        _say((done, 0))
        return done
    done, code = _hear()
    if code:
        sys.exit(code)
    return done


def after_the_first(work: Callable[[], Done]) -> Done:
    """`work` in every process, in the first one before the others."""
    mine: list[Done] = []

    def ahead() -> None:
        mine.append(work())

    first_does(ahead)
    return mine[0] if mine else work()


@contextmanager
def agreed() -> Iterator[None]:
    """What every process does for itself: if it fails with a HoneError in one, then in all.

    The first one that failed raises its own, the others leave with its code, and tell nothing.
    """
    failure: HoneError | None = None
    try:
        yield
    except HoneError as error:
        failure = error
    codes = gathered(failure and failure.exit_code)
    failed = [number for number, code in enumerate(codes) if code is not None]
    if failed and failed[0] != rank():
        sys.exit(codes[failed[0]])
    if failure is not None:
        raise failure


def gathered(value: Any) -> list[Any]:
    """Every process's value, by rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=_patient[0])
    return values


def any_of(flag: bool) -> bool:
    """Whether it is true in any process."""
    if world() == 1:
        return flag
    highest = torch.tensor(int(flag))
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return bool(highest)


@contextmanager
def losing_none() -> Iterator[None]:
    """Raises RetryableFailure when another process does not come, or ends before its time."""
    try:
        yield
    except RuntimeError as error:
        if launch.world() == 1 or not _is_loss(error):
            raise
        raise RetryableFailure(
            f"process {launch.rank()} of {launch.world()} lost another one ({str(error).splitlines()[0]}); "
            "what that one told says why. The same command goes on from the newest checkpoint"
        ) from error


def save_together(
    checkpoints: Checkpoints, step: int, write: Callable[[Path], None], metrics: dict[str, float]
) -> None:
    """Seal a checkpoint that every process writes its part of, in a folder that all of them see."""

    def all_write(folder: Path) -> None:
        _say(folder)
        write(folder)
        gathered(None)

    if world() == 1:
        checkpoints.save(step, write, metrics)
    elif rank() == 0:
        checkpoints.save(step, all_write, metrics)
    else:
        write(_hear())
        gathered(None)
    # Nobody goes on before it is sealed.
    gathered(None)


def _say(value: Any) -> None:
    dist.broadcast_object_list([value], 0, group=_patient[0])


def _hear() -> Any:
    heard = [None]
    dist.broadcast_object_list(heard, 0, group=_patient[0])
    return heard[0]


def _take_gpu(number: int) -> None:
    count = torch.cuda.device_count()
    if number >= count:
        raise BadConfiguration(
            f"process {launch.rank()} has no GPU: this machine has {count}, and more processes; use {count}"
        )
    torch.cuda.set_device(number)


def _is_loss(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or _LOST.search(str(error)) is not None


def _store() -> Any:
    """Where the processes find each other: torchrun's, or that of the first one."""
    door = os.environ.get(launch.DOOR)
    if door is None:
        return next(dist.rendezvous("env://", timeout=_STEP))[0]  # type: ignore[attr-defined]
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(  # type: ignore[attr-defined]
        host, port, launch.world(), True, _STEP, master_listen_fd=int(door)
    )
