"""Datasets on the Hugging Face Hub, read as a stream: no file is kept on the disk.

Each file is read as a stream of its own, so that a row has the number that it has in its file,
and they are mixed here: `datasets` numbers rows after it has shuffled them.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import httpx
import huggingface_hub
from datasets import IterableDataset, config, load_dataset_builder
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hone_contract.data_spec import SourceSpec
from hone_contract.errors import BadConfiguration, BadInput, RetryableFailure
from hone_contract.hub import hub_token
from hone_trainer.data.rows import Row

_BUFFER = 10_000
"""Rows among which the next one is drawn."""
_FILES = 4
"""Files that are read at a time, since many datasets are sorted by file."""
# Each is six requests in 23 seconds, and 5 more to wait. The library's 20 would take nine minutes.
config.STREAMING_READ_MAX_RETRIES = 4


def resolve(repository: str, revision: str | None) -> str:
    """The commit that a branch or tag means now.

    The token comes from HF_TOKEN or HUGGINGFACE_HUB_TOKEN. Raises BadConfiguration for an unknown
    dataset or revision, RetryableFailure when the Hub does not answer.
    """
    try:
        return str(huggingface_hub.HfApi(token=hub_token()).dataset_info(repository, revision=revision).sha)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise BadConfiguration(
            f"data.sources: the Hub has no dataset {repository!r} (revision {revision or 'default'}) for "
            "this token; check the name, or set HF_TOKEN to a token that may read it"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise _unreachable(repository, error) from error


def stream(source: SourceSpec, commit: str, seed: int) -> Iterator[tuple[str, Row]]:
    """The dataset's rows at that commit, in an order drawn with `seed`: the name of each row's file, and
    the row with its number there.

    Raises BadConfiguration for an unknown configuration or split, or a dataset that has no files
    which can be read, BadInput for a file that is broken, RetryableFailure when the Hub goes away.
    """
    assert source.hub is not None
    names, rows = _open(source, commit)
    files = [_rows_of(name, rows.shard(len(names), index)) for index, name in enumerate(names)]
    with _told(source.hub):
        yield from mix(files, seed)


def mix(files: list[Iterator[tuple[str, Row]]], seed: int) -> Iterator[tuple[str, Row]]:
    """All of their rows in a drawn order; a few files are read at a time, and some rows held back."""
    drawing = random.Random(seed)
    waiting = iter(drawing.sample(files, len(files)))
    reading = list(islice(waiting, _FILES))
    held: list[tuple[str, Row]] = []
    while reading:
        at = drawing.randrange(len(reading))
        row = next(reading[at], None)
        if row is None:
            reading[at : at + 1] = islice(waiting, 1)
            continue
        held.append(row)
        if len(held) == _BUFFER:
            place = drawing.randrange(_BUFFER)
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()
    drawing.shuffle(held)
    yield from held


def _open(source: SourceSpec, commit: str) -> tuple[list[str], IterableDataset]:
    """The names of the split's files, and the dataset that has one shard for each."""
    assert source.hub is not None
    try:
        # The scheme keeps a folder of that name here from being taken for it.
        path = f"hf://datasets/{source.hub}"
        builder = load_dataset_builder(path, source.config, revision=commit, token=hub_token())
        splits: dict[str, list[str]] = builder.config.data_files
        if source.split not in splits:
            raise ValueError(f"has no split {source.split!r}; it has {', '.join(map(str, splits))}")
        rows: IterableDataset = builder.as_streaming_dataset(split=source.split)
    except LocalEntryNotFoundError as error:
        # The answer was not understood, and the cache has none either.
        raise _unreachable(source.hub, error) from error
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        # An unknown configuration, with those that there are; no files, or a script; a gate.
        raise BadConfiguration(f"data.sources: {source.hub}: {_line(error)}") from error
    except (httpx.HTTPError, OSError) as error:
        raise _unreachable(source.hub, error) from error
    root = f"hf://datasets/{source.hub}@{commit}/"
    return [f"{source.hub}/{url.removeprefix(root)}" for url in splits[source.split]], rows


def _rows_of(name: str, rows: IterableDataset) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, 1):
        yield name, Row(number, row)


@contextmanager
def _told(repository: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        raise _unreachable(repository, error) from error
    except (ValueError, TypeError) as error:
        # Among them what pyarrow says of a broken file, and `datasets` of one with other columns.
        raise BadInput(f"data.sources: {repository}: a file cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _unreachable(repository: str, error: Exception) -> RetryableFailure:
    return RetryableFailure(
        f"data.sources: {repository!r} cannot be read from the Hub ({type(error).__name__}); try again, or "
        "download it and name the folder as a path"
    )
