"""Moments at which a run is struck, and what it has to leave each time."""

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from trainer_survival import SECONDS, Attempt, Run, text_of

from hone_contract.errors import RetryableFailure

_POLL = 0.001


@dataclass(frozen=True)
class Moment:
    """When a process is struck: so long after something is seen on the disk."""

    name: str
    is_there: Callable[[Attempt], bool]
    delay: float
    """Seconds."""
    trains: bool = False
    """Whether the run is then between its first step and its last."""
    is_late: bool = False
    """Whether the run may have ended before the delay has."""

    def comes(self, attempt: Attempt) -> bool:
        """Wait for it; False if the process ends before."""
        until = time.monotonic() + SECONDS
        while attempt.is_alive:
            if self.is_there(attempt):
                time.sleep(self.delay)
                return True
            assert time.monotonic() < until, f"{self.name} never came: {attempt.told()}"
            time.sleep(_POLL)
        return False


Blow = tuple[Moment, signal.Signals]


def planning(delay: float) -> Moment:
    """From the start on."""
    return Moment("planning", lambda _: True, delay)


def planned(delay: float) -> Moment:
    """The first thing that the command tells; then it imports torch, tokenises and loads."""
    return Moment("planned", lambda attempt: "dataset_ready" in attempt.told(), delay)


def loading(delay: float) -> Moment:
    return Moment("loading", lambda attempt: attempt.has_begun, delay)


def stepping(step: int, delay: float) -> Moment:
    def is_there(attempt: Attempt) -> bool:
        done = re.findall(r'^{"step":(\d+),', text_of(attempt.run.diary / "metrics.jsonl"), re.MULTILINE)
        return attempt.has_begun and any(int(each) >= step for each in done)

    return Moment(f"step {step}", is_there, delay, trains=True)


def saving(step: int, delay: float) -> Moment:
    """A checkpoint is being written, of this step or a later one, or the last one is."""

    def is_there(attempt: Attempt) -> bool:
        partial = attempt.run.diary.glob("checkpoints/step-*.partial-*")
        numbers = [int(path.name.split(".")[0].removeprefix("step-")) for path in partial]
        return attempt.has_begun and (any(number >= step for number in numbers) or _probes(attempt))

    return Moment(f"saving {step}", is_there, delay, trains=True)


def probing(delay: float) -> Moment:
    return Moment("probing", _probes, delay, is_late=True)


def sealing(delay: float) -> Moment:
    """Between the last file of the result and its manifest's name."""

    def is_there(attempt: Attempt) -> bool:
        return any(attempt.run.store.root.glob("*/*.partial-*/probes.json"))

    return Moment("sealing", is_there, delay, is_late=True)


def blows(seed: int, kills: int, stops: int, steps: int) -> list[Blow]:
    """So many, in the order of the run: some before it trains, some after, most in and between its steps."""
    random = Random(seed)
    early = [
        planning(random.uniform(0, 0.1)),
        planned(random.uniform(0, 0.3)),
        loading(random.uniform(0, 0.4)),
    ]
    late = [probing(random.uniform(0, 0.1)), sealing(random.uniform(0, 0.03))]
    if kills < 8:
        early, late = [early[0]], [random.choice(late)]
    places = sorted(random.randrange(1, steps - 4) for _ in range(kills + stops - len(early) - len(late)))
    moments = [*early, *(_in_training(random, place) for place in places), *late]
    # Until the command's own code runs there is nothing that could answer a signal.
    stopped = random.sample(range(1, len(moments)), stops)
    soft = [random.choice((signal.SIGTERM, signal.SIGINT)) for _ in moments]
    return [
        (moment, soft[index] if index in stopped else signal.SIGKILL) for index, moment in enumerate(moments)
    ]


def survive(run: Run, blows: list[Blow], *, real: bool = False) -> None:
    """Strike the run at each moment and begin it again, to its end; checks what each blow left."""
    for moment, number in blows:
        newest = run.checkpoints()[:1]
        attempt = run.start(real=real)
        if not moment.comes(attempt):
            # It was sealed before the blow that came just now.
            assert moment.is_late and attempt.wait() == 0, f"no {moment.name}: {attempt.told()}"
            break
        code = attempt.strike(number)
        run.check_whole()
        _check_code(attempt, moment, number, code)
        _check_resumed(attempt, newest)
    newest = run.checkpoints()[:1]
    last = run.start(real=real)
    assert last.wait() == 0, last.told()
    _check_resumed(last, newest)


def _check_code(attempt: Attempt, moment: Moment, number: signal.Signals, code: int) -> None:
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL or (moment.is_late and code == 0), attempt.told()
        return
    assert code == RetryableFailure.exit_code, f"{moment.name}, {number.name}: {attempt.told()}"
    if moment.trains:
        status = attempt.run.status()
        assert (status.state, status.step) == ("stopped", attempt.run.checkpoints()[0])


def _check_resumed(attempt: Attempt, newest: list[int]) -> None:
    """It went on from the checkpoint that was the newest, and said so."""
    if "training_started" in attempt.told():
        found = [event.data["step"] for event in attempt.run.events("resumed")]
        assert found[-1:] == newest


def _in_training(random: Random, step: int) -> Moment:
    kind, delay = random.choice([(saving, 0.12), (stepping, 0.05)])
    return kind(step, random.uniform(0, delay))


def _probes(attempt: Attempt) -> bool:
    return attempt.has_begun and '"event":"probing"' in attempt.told()
