"""Probes as they are written with an artifact and read back by the gate."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from hone_contract.errors import ArtifactCorrupt
from hone_contract.probes import Probe, Probes, read_probes, write_probes


def _probes(logprob: float) -> Probes:
    probe = Probe(
        messages=[{"role": "user", "content": "Grüße"}],
        prompt_token_ids=[1, 2],
        continuation_token_ids=[3],
        base=[logprob],
        adapter=[-0.1],
    )
    return Probes(tokenizer_sha256="a" * 64, chat_template_sha256="b" * 64, probes=[probe])


@pytest.mark.parametrize("logprob", [-0.1, -1e-45, -3.4028234663852886e38, 0.0, -0.30000000000000004])
def test_written_probes_are_read_back_to_the_last_bit(tmp_path: Path, logprob: float) -> None:
    write_probes(tmp_path, _probes(logprob))
    assert read_probes(tmp_path) == _probes(logprob)


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_logprob_that_could_not_be_read_back_is_not_taken(logprob: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        _probes(logprob)


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[1]", b"\xff", b'{"schema_version": 2, "probes": []}']
)
def test_unreadable_probes_are_told_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "probes.json").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=r"probes\.json cannot be read as probes"):
        read_probes(tmp_path)


def test_probes_without_tools_are_written_as_they_were_before_there_were_any(tmp_path: Path) -> None:
    write_probes(tmp_path, _probes(-0.1))
    assert "tools" not in (tmp_path / "probes.json").read_text(encoding="utf-8")


def test_the_tools_and_calls_of_a_probe_are_read_back(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    [probe] = _probes(-0.1).probes
    asked = probe.model_copy(update={"messages": [*probe.messages, turn], "tools": tools})
    probes = _probes(-0.1).model_copy(update={"probes": [asked]})
    write_probes(tmp_path, probes)
    assert read_probes(tmp_path) == probes
