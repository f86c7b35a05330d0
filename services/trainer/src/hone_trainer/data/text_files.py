"""The bytes of a file, unpacked, and the lines of one that is text."""

import gzip
import zlib
from collections.abc import Iterator
from typing import IO, cast

import pyarrow

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.data.files import DataFile
from hone_trainer.data.rejection import Rejected
from hone_trainer.data.rows import EXCERPT, MAX_RECORD, MAX_WHOLE, Block, Row

BOM = "\ufeff"
_BLOCK = 2**20
_OTHER_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_blocks(file: DataFile) -> Iterator[Block | Row]:
    """The lines of a text file, in blocks of about a megabyte; a line that is too large is a bad row."""
    line, offset, rest, skipping = 1, 0, b"", False
    for data in bytes_of(file):
        if skipping:
            skipped, newline, data = data.partition(b"\n")
            offset += len(skipped) + len(newline)
            line, skipping = line + len(newline), not newline
        whole, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            yield Block(line, _decode(file, whole, line, offset))
            line, offset = line + whole.count(b"\n") + 1, offset + len(whole) + 1
        if len(rest) > MAX_RECORD:
            too_large = f"has more than {MAX_RECORD // 2**20} MiB in one line"
            yield Row(line, Rejected("too_large", too_large, rest[:EXCERPT].decode("utf-8", "replace")))
            offset, rest, skipping = offset + len(rest), b"", True
    if rest:
        yield Block(line, _decode(file, rest, line, offset))


def read_text(file: DataFile) -> str:
    """All of a text file. Raises BadInput when it is too large to be held in memory."""
    return _decode(file, read_bytes(file), 1, 0)


def read_bytes(file: DataFile) -> bytes:
    """All of a file. A small one may unpack to more than there is memory, so there is a limit."""
    parts, size = [], 0
    for part in bytes_of(file):
        parts.append(part)
        size += len(part)
        if size > MAX_WHOLE:
            raise BadInput(
                f"{file.name}: has more than {MAX_WHOLE // 2**30} GiB, and would have to be held in memory; "
                "write one record a line into a .jsonl"
            )
    return b"".join(parts)


def bytes_of(file: DataFile) -> Iterator[bytes]:
    """The file's content, unpacked."""
    try:
        with _open(file) as stream:
            first = stream.read(_BLOCK)
            if encoding := _OTHER_BOMS.get(first[:2]):
                raise BadInput(f"{file.name}: is {encoding}, from byte 0 on; save the file as UTF-8")
            if b"\0" in first[:4]:
                raise BadInput(f"{file.name}: begins with NUL bytes, as UTF-16 does; save the file as UTF-8")
            yield first
            while data := stream.read(_BLOCK):
                yield data
    except (EOFError, zlib.error, gzip.BadGzipFile, pyarrow.ArrowException) as error:
        raise BadInput(
            f"{file.name}: cannot be unpacked, it is damaged or cut off ({error}); get the file again"
        ) from error
    except OSError as error:
        raise unreadable(file, error) from error


def _open(file: DataFile) -> IO[bytes]:
    if file.compression == "gzip":
        return cast(IO[bytes], gzip.open(file.path))
    if file.compression == "zstd":
        unpacked: IO[bytes] = pyarrow.input_stream(file.path, compression="zstd")
        return unpacked
    return file.path.open("rb")


def unreadable(file: DataFile, error: OSError) -> BadConfiguration | BadInput:
    """What to raise for a file that cannot be read."""
    if error.errno is None:
        # What a decompressor says of its input has no number.
        return BadInput(f"{file.name}: cannot be unpacked: {error}; get the file again")
    return BadConfiguration(f"{file.path}: cannot be read: {error.strerror}; name a file with --data")


def _decode(file: DataFile, data: bytes, line: int, offset: int) -> str:
    try:
        text = data.decode("utf-8")
        return text if offset else text.removeprefix(BOM)
    except UnicodeDecodeError as error:
        at = line + data.count(b"\n", 0, error.start)
        raise BadInput(
            f"{file.name}:{at}: is not UTF-8 at byte {offset + error.start} "
            f"(0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error
