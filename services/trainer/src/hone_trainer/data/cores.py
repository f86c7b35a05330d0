"""The same work on many pieces, on all cores."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

Piece = TypeVar("Piece")
Done = TypeVar("Done")

_alone = ContextVar("alone", default=False)


@contextmanager
def in_this_process() -> Iterator[None]:
    """Within it, no other process is begun.

    Each would begin with the main module, and so run a user's whole script again unless it is guarded by
    `if __name__ == "__main__"`.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def on_all_cores(
    work: Callable[[Piece], Done],
    pieces: Iterable[Piece],
    begin: Callable[..., object] | None = None,
    *arguments: Any,
) -> Iterator[Done]:
    """`work` of every piece, in order. `begin(*arguments)` is called first in each process."""
    if _alone.get():
        if begin is not None:
            begin(*arguments)
        yield from map(work, pieces)
        return
    cores = len(os.sched_getaffinity(0))
    # Not forked: the libraries of tokenizers and signatures have threads.
    with ProcessPoolExecutor(cores, get_context("spawn"), _begin, (begin, arguments)) as pool:
        running: deque[Future[Done]] = deque()
        for piece in pieces:
            running.append(pool.submit(work, piece))
            # A few ahead keep every core busy, and the memory bounded.
            if len(running) > 2 * cores:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _begin(begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """A parent that was killed tells its processes nothing, and they would wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
