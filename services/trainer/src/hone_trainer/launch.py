"""Several processes that train one run: each is this same command, told by its environment who it is.

The variables are torchrun's (https://docs.pytorch.org/docs/stable/elastic/run.html), so that it may begin
the processes as well, on one machine or on several.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

from pydantic import JsonValue

from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_contract.events import Level, Reporter
from hone_trainer.node import ALONE, Node

DOOR = "HONE_RENDEZVOUS_FD"
"""Of the first process: the socket, bound already, at which the others find it."""
_LAUNCHER = "HONE_LAUNCHER_FD"
"""The end of a pipe, whose other end closes when the launcher is gone."""
_PLACE = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_EVERY = 0.05
_GRACE = 5.0
"""Seconds for the others to end by themselves when one has failed; as long again until they are killed."""
_RETRY = RetryableFailure.exit_code
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)
"""What a process leaves with that was stopped before it could say so in the code for another try."""


def world() -> int:
    """How many processes train this run, as whoever began them has it.

    Raises BadConfiguration when the environment does not say it in full.
    """
    count = _number("WORLD_SIZE", 1)
    if count > 1 and (missing := [name for name in _PLACE if name not in os.environ]):
        raise BadConfiguration(
            f"WORLD_SIZE is {count}, but {missing[0]} is missing; let torchrun or --processes set them"
        )
    return count


def rank() -> int:
    """Which of them this one is, from 0."""
    return _number("RANK", 0)


def world_here() -> int:
    """How many of them are on this machine."""
    return _number("LOCAL_WORLD_SIZE", world())


def threads(processes: int) -> int:
    """Of each of so many on this machine, when they share out its cores."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def is_launched() -> bool:
    """Whether this process was begun as one of several, if only one: then it begins no others."""
    return "WORLD_SIZE" in os.environ


def choose(asked: int | None, gpus: int) -> int:
    """How many processes are to train on this machine: as many as asked, or one for each of its GPUs.

    Raises BadConfiguration when there are too few GPUs.
    """
    if asked is not None and 0 < gpus < asked:
        raise BadConfiguration(f"--processes {asked}: this machine has {gpus} GPUs, one for each at most")
    return asked or max(1, gpus)


def check_alone(backend: str, asked: int | None) -> None:
    """Raises BadConfiguration where several processes are to train with what can train on one GPU only."""
    if max(asked or 1, world()) > 1:
        raise BadConfiguration(
            f"backend: {backend} trains in one process; leave --processes and torchrun out"
        )


def launch(command: Sequence[str], processes: int, node: Node = ALONE) -> int:
    """Run `command` in so many processes on this machine until all have ended; the exit code for them all.

    Of several machines, each launches as many. SIGTERM and SIGINT are handed on to each. When one fails, the
    others are ended, and the code is that of the failure; processes that only lost the others, or were
    ended, do not count.
    """
    with ExitStack() as stack:
        door = stack.enter_context(socket.socket())
        if node.count == 1:
            door.bind(("127.0.0.1", 0))
            door.listen()
            node = replace(node, port=door.getsockname()[1])
        held, kept = os.pipe()
        stack.callback(os.close, kept)
        team = _Team()
        stack.callback(team.kill)
        stack.enter_context(team.handling_signals())
        for number in range(processes):
            # On other machines nobody has the socket: there the first process opens its own.
            doors = {DOOR: door.fileno()} if node.count == 1 and number == 0 else {}
            environment = _environment(os.environ, number, processes, node)
            team.begin(command, environment, {_LAUNCHER: held, **doors})
        # Only they hold them now: what one of them closes is closed.
        os.close(held)
        door.close()
        return team.wait()


def end_with_launcher() -> None:
    """A launcher that was killed tells its processes nothing, and they would train on without it."""
    text = os.environ.pop(_LAUNCHER, None)
    if text is not None:
        threading.Thread(target=_end_at_once, args=(int(text),), daemon=True).start()


def reporter() -> Reporter:
    """For what is told before the training: by the launcher, so not again by its first process."""
    return Silent("trainer") if DOOR in os.environ else Reporter("trainer")


class Silent(Reporter):
    """Of a process that tells nothing, since another one does."""

    def tell(self, event: str, message: str, *, level: Level = "info", **data: JsonValue) -> None:
        pass


def _end_at_once(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(_RETRY)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise BadConfiguration(
            f"{name}: {text!r} is no number; torchrun and --processes set it by themselves"
        )
    return int(text)


def _environment(ours: Mapping[str, str], number: int, processes: int, node: Node) -> dict[str, str]:
    """Of the process with this number here; the cores are shared out, unless the user did."""
    theirs = {
        "RANK": node.number * processes + number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": node.count * processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": node.address,
        "MASTER_PORT": node.port,
    }
    share = {"OMP_NUM_THREADS": str(threads(processes))}
    return share | dict(ours) | {name: str(value) for name, value in theirs.items()}


@dataclass
class _Team:
    """The processes, by their number."""

    members: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    codes: dict[int, int] = field(default_factory=dict)
    """Of those that ended by themselves, in the order in which they did."""
    asked: list[int] = field(default_factory=list)
    """Signals that are still to be handed on."""
    stopped: bool = False
    """Whether one was."""
    ended_by: signal.Signals | None = None
    """The last signal to those that were left when one had failed."""

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """The handlers only take note: a signal may come while a process is being begun."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def begin(
        self, command: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[str, int]
    ) -> None:
        told = {name: str(descriptor) for name, descriptor in descriptors.items()}
        self.members.append(
            subprocess.Popen(
                command,
                env={**environment, **told},
                pass_fds=list(descriptors.values()),
                stdin=subprocess.DEVNULL,
                # Ctrl-C goes to every process of the terminal; twice would mean: do not wait for the step.
                start_new_session=True,
            )
        )

    def wait(self) -> int:
        failed_at = math.inf
        while self._running():
            self._hand_on()
            if any(self.codes.values()):
                failed_at = min(failed_at, time.monotonic())
            self._end_others(time.monotonic() - failed_at)
            time.sleep(_EVERY)
        return _code_of_all(list(self.codes.values()))

    def _end_others(self, late: float) -> None:
        """`late` are the seconds since one failed."""
        number = signal.SIGKILL if late > 2 * _GRACE else signal.SIGTERM
        if late > _GRACE and self.ended_by is not number:
            self.ended_by = number
            self._send(number)

    def kill(self) -> None:
        """Whatever still runs, when the launcher itself cannot go on."""
        self._send(signal.SIGKILL)
        for member in self.members:
            member.wait()

    def _running(self) -> bool:
        for number, member in enumerate(self.members):
            if number not in self.codes and (code := member.poll()) is not None:
                self.codes[number] = self._code(number, code)
        return len(self.codes) < len(self.members)

    def _code(self, number: int, code: int) -> int:
        """As a shell has it. One that had to be ended says nothing of what went wrong."""
        if code >= 0:
            return code
        if self.ended_by is not None or self.stopped:
            return _RETRY
        name = signal.Signals(-code).name
        told = f"process {number} of {len(self.members)} was ended by {name}"
        Reporter("trainer").tell("process_ended", told, level="error", rank=number, signal=name)
        return 128 - code

    def _hand_on(self) -> None:
        while self.asked:
            self.stopped = True
            self._send(self.asked.pop(0))

    def _send(self, number: int) -> None:
        for index, member in enumerate(self.members):
            if index not in self.codes:
                member.send_signal(number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.asked.append(number)


def _code_of_all(codes: list[int]) -> int:
    """The first that says what went wrong, before any that only asks for another try."""
    told = [_RETRY if code in _STOPPED else code for code in codes]
    return next((code for code in told if code not in (0, _RETRY)), max(told))


def same_command() -> list[str]:
    """What began this process."""
    return [sys.executable, *sys.orig_argv[1:]]
