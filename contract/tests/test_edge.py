"""The edge of a process: one line, and the exit code that the error's branch promises."""

import errno
import os
import subprocess
import sys

import pytest

from hone_contract.edge import run
from hone_contract.errors import (
    ArtifactBusy,
    ArtifactCorrupt,
    ArtifactExists,
    ArtifactIncomplete,
    ArtifactMissing,
    BadConfiguration,
    BadInput,
    HoneError,
    RetryableFailure,
    UnsupportedSchema,
)

CODES: dict[type[HoneError], int] = {
    HoneError: 70,
    BadInput: 65,
    ArtifactIncomplete: 65,
    ArtifactCorrupt: 65,
    UnsupportedSchema: 65,
    BadConfiguration: 78,
    ArtifactMissing: 78,
    ArtifactExists: 78,
    RetryableFailure: 75,
    ArtifactBusy: 75,
}


@pytest.mark.parametrize(
    ("kind", "code"), CODES.items(), ids=lambda part: getattr(part, "__name__", str(part))
)
def test_an_error_is_one_line_and_a_code(
    kind: type[HoneError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise kind("what happened; what to do")

    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == code
    assert capsys.readouterr() == ("", "error: what happened; what to do\n")


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 75), (errno.ESTALE, 75), (errno.ENOENT, 78), (errno.EACCES, 78)]
)
def test_what_the_system_says_may_pass_if_a_disk_may_come_back(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "/store")

    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == code
    assert capsys.readouterr() == ("", f"error: /store: {os.strerror(number)}\n")


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (3, 3)])
def test_what_main_answers_is_the_code(answer: int | None, code: int) -> None:
    with pytest.raises(SystemExit) as left:
        run(lambda: answer)
    assert left.value.code == code


def test_an_interrupt_leaves_as_a_shell_expects(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_defect_keeps_its_traceback() -> None:
    source = "from hone_contract.edge import run; run(lambda: 1 // 0)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_told_to_terminate_it_closes_what_is_open_and_leaves_with_143() -> None:
    code = (
        "import time\nfrom hone_contract.edge import run\n"
        "def main():\n"
        "    try:\n        print('working', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('closed', flush=True)\n"
        "run(main)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.terminate()
        assert process.stdout.read() == "closed\n"
        assert process.wait(timeout=20) == 143
