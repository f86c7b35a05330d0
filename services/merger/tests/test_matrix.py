"""Every kind of adapter on every family of base: bit for bit what PEFT's `merge_and_unload` makes of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from merger_families import FAMILIES, SPECIAL, VARIANTS, family_folder, variant_folder
from merger_tiny import adapted
from safetensors.torch import load_file

from hone_merger.fusing import changes, layout, shards
from hone_merger.fusing.layout import plan_layout
from hone_merger.fusing.shards import share_out, write_shards

pytestmark = pytest.mark.chain
DTYPES = [torch.float32, torch.bfloat16]
CASES = [(family, variant, lora) for family in FAMILIES for variant, lora in VARIANTS.items()] + SPECIAL


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, torch.dtype], Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        (family, dtype): family_folder(folder / f"{family}-{dtype}", family, dtype)
        for family in FAMILIES
        for dtype in DTYPES
    }


def fused(base: Path, adapter: Path, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """What is written, read again."""
    folder.mkdir()
    write_shards(share_out(plan_layout(base, adapter, **options).outputs), folder, lambda _: None)
    return load_file(folder / "model.safetensors")


def by_peft(base: Path, adapter: Path, folder: Path) -> dict[str, torch.Tensor]:
    """PEFT's defaults: `merge_and_unload`, in the checkpoint's own layout."""
    adapted(base, adapter).merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "variant", "lora"), CASES, ids=[f"{f}: {v}" for f, v, _ in CASES])
def test_it_is_what_peft_makes(
    tmp_path: Path,
    bases: dict[tuple[str, torch.dtype], Path],
    family: str,
    variant: str,
    lora: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    base = bases[family, dtype]
    adapter = variant_folder(tmp_path / "adapter", base, **lora)
    ours, theirs = fused(base, adapter, tmp_path / "ours"), by_peft(base, adapter, tmp_path / "theirs")
    before = load_file(base / "model.safetensors")
    assert ours.keys() == theirs.keys() == before.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert {name: tensor.dtype for name, tensor in ours.items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }
    assert any(not torch.equal(ours[name], before[name]) for name in ours), variant


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [1, 2, 16, 64, 65, 256])
def test_layers_that_are_folded_in_pieces_are_what_peft_makes(
    tmp_path: Path, rank: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many parts of many pieces, none of them even; at scalings of which only some are powers of two."""
    monkeypatch.setattr(layout, "ROOM", 300_000)
    monkeypatch.setattr(shards, "ROOM", 300_000)
    monkeypatch.setattr(changes, "_CACHED", 10_000)
    base = family_folder(tmp_path / "base", "Llama", dtype, hidden_size=768, intermediate_size=2000)
    lora = {
        "r": rank,
        "lora_alpha": 32,
        "target_modules": "all-linear",
        "alpha_pattern": {"up_proj": 3 * rank},
    }
    adapter = variant_folder(tmp_path / "adapter", base, **lora)
    ours, theirs = fused(base, adapter, tmp_path / "ours"), by_peft(base, adapter, tmp_path / "theirs")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
