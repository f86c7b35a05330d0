"""A form with one file, which goes to the disk while it arrives; it is never in memory as a whole.

The parser and the disk work in a thread, some hundred kilobytes at a time, so that other requests do not wait
for them, whatever a form consists of.
"""

import re
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from hone_api.errors import ApiError
from hone_api.files.storage import Incoming

_AT_ONCE = 2**18
_FIELD_BYTES = 1024
_BESIDE = 2**20
"""What a form may have beside the file, at most."""
_ESCAPED = re.compile(r"\\.")
_ENCODINGS = ("", "binary", "8bit", "7bit")


@dataclass(frozen=True)
class Expected:
    """What a form may hold."""

    file: str
    """The field that is the file."""
    most: int
    """Bytes of the file."""
    fields: frozenset[str] = frozenset()
    """All others."""


@dataclass(frozen=True)
class Form:
    """What a form held; the file's bytes are where they were to go."""

    filename: str
    fields: dict[str, str]


async def read_form(request: Request, incoming: Incoming, expected: Expected) -> Form:
    """Raises ApiError for a form that is not what was expected, or does not come whole."""
    try:
        reading = _Reading(_boundary(request, expected), incoming, expected)
        await _read(request, reading)
    except ApiError as error:
        # The rest of the body may be on its way, and is not waited for.
        error.headers = {**(error.headers or {}), "Connection": "close"}
        raise
    return reading.whole()


async def _read(request: Request, reading: "_Reading") -> None:
    waiting = bytearray()
    try:
        async for chunk in request.stream():
            waiting += chunk
            if len(waiting) >= _AT_ONCE:
                await run_in_threadpool(reading.feed, bytes(waiting))
                waiting.clear()
    except ClientDisconnect:
        raise _refused("The body ended before it was whole") from None
    await run_in_threadpool(reading.feed, bytes(waiting))


def _boundary(request: Request, expected: Expected) -> bytes:
    """What stands between the form's fields. Nothing of the body was read yet."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _refused("Content-Encoding is not supported; send the form as it is", 415)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > expected.most + _BESIDE:
        raise _too_large(expected)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise _refused("Send a form: Content-Type: multipart/form-data; boundary=…")
    if not options.get(b"boundary"):
        raise _refused("The form has no boundary: Content-Type: multipart/form-data; boundary=…")
    return options[b"boundary"]


@dataclass
class _Part:
    """A field that arrives."""

    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    value: bytearray = field(default_factory=bytearray)


class _Reading:
    """The parser's callbacks. They may be called for a byte or for many."""

    def __init__(self, boundary: bytes, incoming: Incoming, expected: Expected) -> None:
        self._incoming, self._expected = incoming, expected
        self._part = _Part()
        self._header: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._values: dict[str, str] = {}
        self._filename: str | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._open,
                    "on_part_data": self._take,
                    "on_part_end": self._close,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _refused(f"The form cannot be read: {error}") from None

    def feed(self, data: bytes) -> None:
        """Raises ApiError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _refused(f"The form cannot be read: {error}") from None

    def whole(self) -> Form:
        """Raises ApiError when something is missing."""
        if not self._ended:
            raise _refused("The form is cut off: its last boundary is missing")
        if self._filename is None:
            raise _refused(
                f"The form has no file; its field is {self._expected.file}", param=self._expected.file
            )
        return Form(self._filename, self._values)

    def _begin(self) -> None:
        self._part = _Part()

    def _end_header(self) -> None:
        name, value = self._header
        self._part.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._header = bytearray(), bytearray()

    def _open(self) -> None:
        """A field's headers are there."""
        options = _disposition(self._part.headers.get("content-disposition", ""))
        if self._part.headers.get("content-transfer-encoding", "").strip().lower() not in _ENCODINGS:
            raise _refused("Content-Transfer-Encoding is not supported; send the file as it is")
        name = self._part.name = _text(options[b"name"])
        if name not in self._expected.fields | {self._expected.file}:
            raise _refused(f"Unrecognized request argument supplied: {name[:64]!a}", param=name[:64])
        if name in self._values or (name == self._expected.file and self._filename is not None):
            raise _refused(f"The field {name} comes twice", param=name)
        if name == self._expected.file:
            if b"filename" not in options:
                raise _refused(f"The field {name} is no file: it has no filename", param=name)
            self._filename = _text(options[b"filename"])

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == self._expected.file:
            if self._incoming.size + end - start > self._expected.most:
                raise _too_large(self._expected)
            self._incoming.write(data[start:end])
            return
        self._part.value += data[start:end]
        if len(self._part.value) > _FIELD_BYTES:
            raise _refused(
                f"The field {self._part.name} has more than {_FIELD_BYTES} bytes", param=self._part.name
            )

    def _close(self) -> None:
        if self._part.name != self._expected.file:
            self._values[self._part.name] = _text(bytes(self._part.value))

    def _end(self) -> None:
        self._ended = True


def _disposition(header: str) -> dict[bytes, bytes]:
    kind, options = parse_options_header(header)
    if kind != b"form-data" or b"name" not in options:
        raise _refused("A field of the form has no name")
    if _ESCAPED.sub("", header).count('"') % 2:
        # A name with a line end in it, so that what follows is another header.
        raise _refused("A name in the form begins with a quotation mark, and does not end with one")
    return options


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _refused("A name or a field of the form is not UTF-8") from None


def _too_large(expected: Expected) -> ApiError:
    told = f"The file has more than {expected.most} bytes, which is the most"
    return _refused(told, 413, expected.file, "too_large")


def _refused(message: str, status: int = 400, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(status, message, param=param, code=code)
