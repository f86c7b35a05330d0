"""From a file to its rows, each with its line; a file is never held in memory but for JSON.

A row that cannot be read is a row with a problem, and the rows after it are read. Where nothing
after a mistake can be trusted (encoding, compression, a broken JSON array), the file is refused.
"""

from collections.abc import Iterator

from hone_trainer.data.files import DataFile
from hone_trainer.data.json_files import block_rows, json_rows
from hone_trainer.data.rows import Block, Row
from hone_trainer.data.tables import parquet_rows, table_rows
from hone_trainer.data.text_files import read_blocks


def read_rows(file: DataFile) -> Iterator[Row]:
    """Every record of a file, in order; a value may be a Rejected. Raises as `read_parts` does."""
    for part in read_parts(file):
        yield from block_rows(part) if isinstance(part, Block) else [part]


def read_parts(file: DataFile) -> Iterator[Block | Row]:
    """A file in parts: JSON lines in blocks that are not parsed yet, anything else in rows.

    Raises BadConfiguration when it cannot be opened, BadInput when it is refused as a whole.
    """
    if file.kind == "jsonl":
        return read_blocks(file)
    if file.kind == "json":
        return json_rows(file)
    return parquet_rows(file) if file.kind == "parquet" else table_rows(file)
