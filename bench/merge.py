"""Merging: Hone's merge against PEFT's and against `cp`, in turns of the same run (`make bench-merge`).

The base has the shape of Qwen2.5-3B (36 layers of 2,048, 151,936 tied embeddings, 3.1 billion parameters,
bfloat16, 5.8 GiB in shards of at most 5 GB), filled with noise, and is made on the spot; so is an adapter,
r 16, alpha 32, of every linear layer but the head. Both are deleted after. `--layers 18` halves the layers.

- Hone: `make_plan` and `merge` in a process of its own, everything imported before. `wall_s` is from the plan
  to the sealed model, hashed as it is written and flushed, less `verify_s` (tensors recomputed, every byte of
  the base compared with its digest) and `probe_s` (the written model scored on the probes), which it always
  does.
- PEFT: `from_pretrained`, `PeftModel.from_pretrained`, `merge_and_unload`, `save_pretrained` with their
  defaults in bfloat16, in a process of its own, everything imported before. It hashes, flushes and checks
  nothing.
- cp: `cp -r` of the base.

The cache is warm: the base is read before each side, which begins 10 seconds later. A virtual machine's host
takes free memory back within seconds, and fetching it again costs more than what it is fetched for; so a side
that began right after another had freed gigabytes would be ahead.

Peak memory is the whole process's: `peak_anon_mb` is sampled fifty times a second from /proc/<pid>/status
(RssAnon); in `peak_rss_mb` (VmHWM) the pages of mapped files count too, which the system may take back at any
time. Hone's adapter has probes: 8 prompts of 24 tokens and answers of 16, whose logprobs are those of PEFT's
merged model.

Run it on an idle machine with 40 GB of disk and 16 GB of memory. The last line printed is JSON, with medians.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.manifest import Source
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_FILES, sha256_of
from hone_contract.probes import Probe, Probes, write_probes
from hone_contract.store import Store
from hone_merger.streaming import score_all, streamed

ROOT = Path(__file__).resolve().parents[1]
DEMO = "demo:smollm2-135m-instruct"
RANK, RUN = 16, "bench-0123456789"
SHARD = 5 * 10**9
PROMPTS, PROMPT, ANSWER = 8, 24, 16
SETTLE = 10.0


@dataclass(frozen=True)
class Turn:
    """One side's merge."""

    wall: float
    anon: float
    rss: float
    verify: float = 0.0
    probe: float = 0.0


def main() -> None:
    options = _options()
    demo = Store.from_environment()
    _python(["-m", "hone_trainer", "--store", str(demo.root), "import-base", DEMO])
    with tempfile.TemporaryDirectory(dir=demo.root.resolve()) as name:
        store = Store(Path(name))
        base = _make_base(store, demo.base(DEMO), options.layers)
        plain = store.root / "plain"
        _make_adapter(plain, base.path)
        hone, peft, copied, equal = [], [], [], True
        merged = store.root / "peft"
        for turn in range(1, options.turns + 1):
            shutil.rmtree(merged, ignore_errors=True)
            _settle(base.path)
            copied.append(_copy(base.path, store.root / "copy"))
            _settle(base.path)
            peft.append(_side("peft", str(base.path), str(plain), str(merged)))
            if turn == 1:
                _seal_adapter(store, plain, base, merged)
            _settle(base.path)
            hone.append(_side("hone", str(store.root), RUN))
            equal = equal and _equal(store.model("bench", RUN), merged)
            shutil.rmtree(store.model("bench", RUN))
            sys.stderr.write(f"turn {turn}: cp {copied[-1]:.1f} s\n  PEFT {peft[-1]}\n  Hone {hone[-1]}\n")
        print(json.dumps(_result(options.layers, hone, peft, copied, equal)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hone's merge against PEFT's and cp, in turns.")
    parser.add_argument("--layers", type=int, default=36, help="of the base (default: 36)")
    parser.add_argument("--turns", type=int, default=3, help="of each side (default: 3)")
    return parser.parse_args()


# -- what is merged --------------------------------------------------------------------------------


def _make_base(store: Store, demo: Path, layers: int) -> Artifact:
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=11_008,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["Qwen2ForCausalLM"],
        eos_token_id=2,
    )
    torch.manual_seed(42)
    with draft(store.base("bench"), {}) as partial:
        config.save_pretrained(partial)
        for name in TOKENIZER_FILES:
            if (demo / name).is_file():
                shutil.copyfile(demo / name, partial / name)
        _write_noise(config, partial)
        return seal(partial, "base", "bench", lineage={"source": Source(id="noise")})


def _write_noise(config: Qwen2Config, folder: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: weights.shape for name, weights in model.named_parameters()}
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in shapes.items():
        tensor = torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
        if sum(each.nbytes for each in shards[-1].values()) + tensor.nbytes > SHARD:
            shards.append({})
        shards[-1][name] = tensor
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "pt"})
    places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _make_adapter(folder: Path, base: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    tensors = {}
    for name, weights in model.named_parameters():
        if name.endswith("proj.weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{layer}.lora_A.weight"] = torch.randn(RANK, weights.shape[1]) * 0.02
            tensors[f"{layer}.lora_B.weight"] = torch.randn(weights.shape[0], RANK) * 0.02
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": "all-linear",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _seal_adapter(store: Store, plain: Path, base: Artifact, merged: Path) -> None:
    """With the logprobs of the base and of PEFT's merged model on random texts."""
    generator = torch.Generator().manual_seed(7)
    texts = [
        (
            torch.randint(100, 40_000, (PROMPT,), generator=generator).tolist(),
            torch.randint(100, 40_000, (ANSWER,), generator=generator).tolist(),
        )
        for _ in range(PROMPTS)
    ]
    before, after = (score_all(streamed(folder), texts) for folder in (base.path, merged))
    probes = Probes(
        tokenizer_sha256=sha256_of(base.path, TOKENIZER),
        chat_template_sha256=sha256_of(base.path, CHAT_TEMPLATE),
        probes=[
            Probe(
                messages=[{"role": "user", "content": "?"}],
                prompt_token_ids=prompt,
                continuation_token_ids=answer,
                base=before[number],
                adapter=after[number],
            )
            for number, (prompt, answer) in enumerate(texts)
        ],
    )
    with draft(store.adapter(RUN), {}) as partial:
        shutil.copytree(plain, partial, dirs_exist_ok=True)
        for name in TOKENIZER_FILES:
            if (base.path / name).is_file():
                shutil.copyfile(base.path / name, partial / name)
        write_probes(partial, probes)
        seal(partial, "adapter", RUN, lineage={"base": base.source})


# -- the three sides -------------------------------------------------------------------------------


def _settle(base: Path) -> None:
    """The base is in the cache, and what was given free is the host's again, where there is one."""
    for path in base.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
    os.sync()
    time.sleep(SETTLE)


def _copy(source: Path, target: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def _side(*arguments: str) -> Turn:
    """A merge in its own process (bench/merge_side.py), which tells its seconds in its last line."""
    command = [sys.executable, str(ROOT / "bench" / "merge_side.py"), *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        anon = max(_anonymous(process), default=0.0)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(errors.read()[-3000:])
        output.seek(0)
        told = json.loads(output.read().splitlines()[-1])
    return Turn(anon=anon, **told)


def _anonymous(process: "subprocess.Popen[bytes]") -> Iterator[float]:
    """MB, fifty times a second until it ends."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon"):
                yield int(line.split()[1]) * 1024 / 1e6
        time.sleep(0.02)


def _python(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)


def _equal(model: Path, merged: Path) -> bool:
    """Whether every tensor has the same bits."""
    ours, theirs = _places(model), _places(merged)
    return ours.keys() == theirs.keys() and all(
        torch.equal(_tensor(ours[name], name), _tensor(theirs[name], name)) for name in ours
    )


def _places(folder: Path) -> dict[str, Path]:
    places = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            places.update(dict.fromkeys(file.keys(), path))
    return places


def _tensor(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, "pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def _result(
    layers: int, hone: list[Turn], peft: list[Turn], copied: list[float], equal: bool
) -> dict[str, object]:
    walls = zip(hone, peft, copied, strict=True)
    ratios = [(ours.wall / theirs.wall, ours.wall / copy) for ours, theirs, copy in walls]
    return {
        "bench": "merge",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "layers": layers,
        "wall_s": round(statistics.median(turn.wall for turn in hone), 2),
        "verify_s": round(statistics.median(turn.verify for turn in hone), 2),
        "probe_s": round(statistics.median(turn.probe for turn in hone), 2),
        "peak_anon_mb": round(max(turn.anon for turn in hone)),
        "peak_rss_mb": round(max(turn.rss for turn in hone)),
        "cp_wall_s": round(statistics.median(copied), 2),
        "peft_wall_s": round(statistics.median(turn.wall for turn in peft), 2),
        "peft_peak_rss_mb": round(max(turn.rss for turn in peft)),
        "peft_peak_anon_mb": round(max(turn.anon for turn in peft)),
        "ratio_peft": round(statistics.median(peft for peft, _ in ratios), 3),
        "ratio_cp": round(statistics.median(copy for _, copy in ratios), 3),
        "ratios_cp": [round(copy, 3) for _, copy in ratios],
        "bit_equal": equal,
    }


if __name__ == "__main__":
    main()
