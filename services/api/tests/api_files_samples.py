"""Files to upload, and forms as no SDK would write them."""

import json
import sys
from collections.abc import Iterable

CHECK = [sys.executable, "-m", "hone_trainer", "check"]
BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def example(question: str = "Hi?", answer: str = "Hello.") -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages})


def lines(*each: str) -> bytes:
    return "".join(line + "\n" for line in each).encode()


GOOD = lines(example(), example("And you?", "Fine."))


def saying(code: int, *output: str) -> list[str]:
    """A check's command that says this, whatever the file."""
    told = "".join(f"print({line!r});" for line in output)
    return [sys.executable, "-S", "-c", f"{told}raise SystemExit({code})"]


def report(records: int, *lines_told: tuple[int | None, str], more: int = 0) -> str:
    problems = [{"line": line, "reason": "not_json", "message": message} for line, message in lines_told]
    return json.dumps({"records": records, "problems": problems, "more": more, "characters": 1, "forms": {}})


def field(name: str, value: bytes, filename: bytes | None = None) -> bytes:
    """One part of a form, by hand."""
    named = b'; filename="' + filename + b'"' if filename is not None else b""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
    return head + named + b"\r\n\r\n" + value + b"\r\n"


def form(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return b"".join(parts) + end


def whole(filename: bytes = b"data.jsonl", purpose: bytes = b"fine-tune") -> bytes:
    return form(field("purpose", purpose), field("file", GOOD, filename))


def names(found: Iterable[object]) -> list[str]:
    """The ids of things that an SDK listed."""
    return [getattr(each, "id") for each in found]  # noqa: B009 - mypy has no type for it
