"""What is written is safetensors, in files of a bounded size, and a killed merge is gone on with."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hone_merger.fusing.layout import Layout, Output, plan_layout
from hone_merger.fusing.shards import Shard, drop_notes, room_for, share_out, write_shards


class Killed(Exception):
    """Stands for a process that ends."""


@pytest.fixture
def layout(qwen: Path, plain_adapter: Path) -> Layout:
    return plan_layout(qwen, plain_adapter)


def shards_of(base: Path, adapter: Path) -> list[Shard]:
    return share_out(plan_layout(base, adapter).outputs, limit=8_000)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_shards_are_as_small_as_was_asked_and_the_index_knows_them(tmp_path: Path, layout: Layout) -> None:
    shards = share_out(layout.outputs, limit=8_000)
    told = write_shards(shards, tmp_path, lambda _: None)
    assert len(shards) > 3
    assert all(len(shard.outputs) == 1 or sum(o.size for o in shard.outputs) <= 8_000 for shard in shards)
    assert told.items() <= digests(tmp_path).items()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(output.size for output in layout.outputs)
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / file)
    drop_notes(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*told, "model.safetensors.index.json"}
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size <= room_for(shards) < 1.2 * size


def test_transformers_loads_shards_as_it_loads_one_file(tmp_path: Path, qwen: Path, layout: Layout) -> None:
    models: list[Any] = []
    for name, limit in (("one", 10**9), ("many", 8_000)):
        folder = tmp_path / name
        folder.mkdir()
        write_shards(share_out(layout.outputs, limit), folder, lambda _: None)
        (folder / "config.json").write_bytes((qwen / "config.json").read_bytes())
        models.append(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_every_byte_is_told(tmp_path: Path, layout: Layout) -> None:
    told: list[int] = []
    write_shards(share_out(layout.outputs, limit=8_000), tmp_path, told.append)
    assert sum(told) == sum(output.size for output in layout.outputs)


@pytest.mark.parametrize("after", [0, 1, 7, 15, 22])
def test_what_was_finished_is_kept_and_the_rest_is_made(
    tmp_path: Path, qwen: Path, plain_adapter: Path, after: int
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    shards = shards_of(qwen, plain_adapter)
    expected = write_shards(shards, whole, lambda _: None)
    left = after

    def kill(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with pytest.raises(Killed):
        write_shards(shards_of(qwen, plain_adapter), again, kill)
    finished = {path.name: path.stat().st_mtime_ns for path in again.glob("*.safetensors")}
    (again / ".config.json.0123").write_text("half")
    shards = shards_of(qwen, plain_adapter)
    assert write_shards(shards, again, lambda _: None) == expected
    assert digests(again) == digests(whole)
    assert all((again / name).stat().st_mtime_ns == time for name, time in finished.items())


def test_a_finished_shard_that_was_damaged_is_made_again(
    tmp_path: Path, qwen: Path, plain_adapter: Path
) -> None:
    shards = shards_of(qwen, plain_adapter)
    names = [shard.name for shard in shards]

    def kill(_: int) -> None:
        if (tmp_path / names[1]).exists():
            raise Killed

    with pytest.raises(Killed):
        write_shards(shards, tmp_path, kill)
    content = bytearray((tmp_path / names[0]).read_bytes())
    content[-1] ^= 1
    (tmp_path / names[0]).write_bytes(content)
    shards = shards_of(qwen, plain_adapter)
    write_shards(shards, tmp_path, lambda _: None)
    (whole := tmp_path / "whole").mkdir()
    expected = write_shards(shards_of(qwen, plain_adapter), whole, lambda _: None)
    assert {name: digest for name, digest in digests(tmp_path).items() if name in expected} == expected


def test_what_is_finished_stays_finished_until_it_is_sealed(
    tmp_path: Path, qwen: Path, plain_adapter: Path
) -> None:
    """A merge that is killed while it is proven has nothing to write again."""
    write_shards(shards_of(qwen, plain_adapter), tmp_path, lambda _: None)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    write_shards(shards_of(qwen, plain_adapter), tmp_path, lambda _: None)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")} == times


def test_a_tensor_larger_than_a_shard_has_one_of_its_own() -> None:
    outputs = [Output(str(size), torch.uint8, (size,), ()) for size in (3, 30, 4, 4, 4)]
    shards = share_out(outputs, limit=10)
    assert [[output.name for output in shard.outputs] for shard in shards] == [
        ["3"],
        ["30"],
        ["4", "4"],
        ["4"],
    ]
