"""Work on many lines that needs a base's tokenizer."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.data.cores import on_all_cores

Done = TypeVar("Done")
Work = Callable[[PreTrainedTokenizerBase, list[bytes]], Done]
"""Is given some lines; a function of a module or a partial of one, since other processes call it."""

_AT_ONCE = 256
_WORTH_PROCESSES = 8 * _AT_ONCE


def by_tokenizer(
    work: Work[Done], lines: Iterable[bytes], count: int, base: Path, template: str
) -> Iterator[Done]:
    """`work` of `count` lines, 256 at a time, in order; many are worked on by all cores."""
    iterator = iter(lines)
    batches = iter(lambda: list(islice(iterator, _AT_ONCE)), [])
    if count < _WORTH_PROCESSES:
        tokenizer = load_tokenizer(base, template)
        yield from (work(tokenizer, batch) for batch in batches)
    else:
        yield from on_all_cores(partial(_work_here, work), batches, _begin, base, template)


_of_this_process: list[PreTrainedTokenizerBase] = []


def _begin(base: Path, template: str) -> None:
    # The process may be the caller's own, which works with one base after the other.
    _of_this_process[:] = [load_tokenizer(base, template)]


def _work_here(work: Work[Done], batch: list[bytes]) -> Done:
    return work(_of_this_process[0], batch)
