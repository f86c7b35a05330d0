"""Loops in threads beside the routes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(
    name: str,
    run: Callable[[threading.Event], None],
    wake: threading.Event,
    failed: Callable[[], None],
    seconds: float,
) -> Iterator[None]:
    """`run` goes on until its event is set, and is waited for at the end for so many seconds.

    `wake` ends its wait for news; `failed` is called if it ends by a mistake of ours.
    """
    stop = threading.Event()

    def work() -> None:
        try:
            run(stop)
        finally:
            if not stop.is_set():
                failed()

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        wake.set()
        thread.join(seconds)
