"""Two answers to one question: side by side where there is room, else one after the other."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, closing

from hone_chat.answer import Answer, pieces
from hone_chat.terminal import Display, Grow, heading
from hone_chat.waiting import Waiter


def show_answers(answers: Sequence[Answer], titles: Sequence[str], display: Display, waiter: Waiter) -> None:
    """Draw each answer; how each ended stands in it. An interruption stops all of them."""
    if len(answers) == 1:
        _show(answers[0], display, waiter)
        return
    place = display.side_by_side(titles)
    if place is None:
        for index, (title, answer) in enumerate(zip(titles, answers, strict=True)):
            heading(title, apart=index > 0)
            _show(answer, display, waiter)
        return
    with place as grow:
        waiter.wait(_together(answers, grow))


def read_answers(answers: Sequence[Answer], waiter: Waiter) -> None:
    """Take each answer in and show nothing."""
    for answer in answers:
        with closing(pieces(answer, waiter)) as coming:
            for _ in coming:
                pass


def _show(answer: Answer, display: Display, waiter: Waiter) -> None:
    with closing(pieces(answer, waiter)) as coming:
        display.show(coming)


async def _together(answers: Sequence[Answer], grow: Grow) -> None:
    async with asyncio.TaskGroup() as group:
        for index, answer in enumerate(answers):
            group.create_task(_grow(answer, index, grow))


async def _grow(answer: Answer, index: int, grow: Grow) -> None:
    async with aclosing(answer):
        while (piece := await answer.next_piece()) is not None:
            grow(index, piece)
