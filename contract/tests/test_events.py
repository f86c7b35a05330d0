"""What a process tells while it works, to machines and to people."""

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from hone_contract.events import Event, Reporter, RunStatus, StepMetrics, append_line, write_status

TELLER = """
import sys
from pathlib import Path
from hone_contract.events import Reporter
reporter = Reporter("trainer", Path(sys.argv[1]))
reporter.tell("step", "step 1 of 3, loss 2.5", step=1, loss=2.5)
reporter.tell("slow_disk", "the disk is slow", level="warning")
"""


def test_a_machine_gets_one_json_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC)
    reporter = Reporter("merger")
    reporter.tell("merged", "Größe: 2\nshards", shards=2, names=["a", "b"])
    reporter.tell("failed", "no disk", level="error")
    out, err = capsys.readouterr()
    first, second = (Event.model_validate_json(line) for line in err.splitlines())
    assert out == ""
    assert (first.service, first.level, first.event, first.message) == (
        "merger",
        "info",
        "merged",
        "Größe: 2\nshards",
    )
    assert first.data == {"shards": 2, "names": ["a", "b"]}
    assert before - timedelta(seconds=1) < first.time <= second.time
    assert (second.level, second.data) == ("error", {})


def test_the_file_gets_the_same_lines_after_those_it_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs" / "faq-1" / "events.jsonl"
    Reporter("trainer", path).tell("started", "begin")
    Reporter("trainer", path).tell("resumed", "go on")
    assert path.read_text(encoding="utf-8") == capsys.readouterr().err
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["started", "resumed"]


def test_a_person_gets_a_readable_line_and_the_file_still_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    terminal, slave = pty.openpty()
    subprocess.run([sys.executable, "-c", TELLER, str(path)], stderr=slave, check=True, timeout=60)
    told = os.read(terminal, 10_000).decode()
    os.close(slave)
    os.close(terminal)
    assert re.sub(r"\d\d:\d\d:\d\d", "TIME", told).splitlines() == [
        "TIME trainer  step 1 of 3, loss 2.5",
        "TIME trainer  warning: the disk is slow",
    ]
    events = [Event.model_validate_json(line) for line in path.read_text().splitlines()]
    assert [event.data for event in events] == [{"step": 1, "loss": 2.5}, {}]


def test_lines_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    source = f"""
import sys
from pathlib import Path
from hone_contract.events import append_line
for _ in range(60):
    append_line(Path({str(path)!r}), sys.argv[1] * 300_000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", source, letter]) for letter in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    lines = path.read_text().split("\n")
    assert sorted(lines) == ["", *["a" * 300_000] * 60, *["b" * 300_000] * 60]


def test_append_line_ends_each_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for line in ("{}", '"ä"'):
        append_line(path, line)
    assert path.read_bytes() == '{}\n"ä"\n'.encode()


def test_the_status_is_the_last_one_written(tmp_path: Path) -> None:
    path = tmp_path / "faq-1" / "status.json"
    last = RunStatus(run_id="faq-1", state="succeeded", step=3, total_steps=3, updated_at=datetime.now(UTC))
    write_status(path, last.model_copy(update={"state": "running", "message": "a longer text" * 20}))
    with path.open(encoding="utf-8") as reader:
        write_status(path, last)
        assert "a longer text" in RunStatus.model_validate_json(reader.read()).message
    assert RunStatus.model_validate_json(path.read_text(encoding="utf-8")) == last
    assert list(path.parent.iterdir()) == [path]


def test_a_wrong_level_or_state_is_refused() -> None:
    with pytest.raises(ValidationError):
        Reporter("trainer").tell("x", "x", level="fatal")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        RunStatus(run_id="x", state="stuck", updated_at=datetime.now(UTC))  # type: ignore[arg-type]


def test_step_metrics_are_read_back_from_their_line() -> None:
    metrics = StepMetrics(step=10, epoch=0.5, loss=1.25, learning_rate=2e-4, grad_norm=0.7, tokens=4096)
    assert StepMetrics.model_validate_json(metrics.model_dump_json()) == metrics
