"""Published versions of one tiny model, an engine that holds one of them, and a server around both."""

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from server_samples import Notes, make_probe, make_settings

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.manifest import Source
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, sha256_of
from hone_contract.probes import Logprobs, Probes, write_probes
from hone_contract.store import Store
from hone_server import __main__ as entry
from hone_server.current import Serving
from hone_server.gate import Verdict
from hone_server.record import Memory, Record, record_path

NAME = "faq"
WEIGHTS = "model.safetensors"
TEXTS = {
    "config.json": '{"hidden_size": 3, "dtype": "bfloat16"}',
    "generation_config.json": '{"temperature": 0.7}',
    TOKENIZER: '{"model": "tiny"}',
    CHAT_TEMPLATE: "{{ messages }}",
}
LINEAGE = {
    "base": Source(id="tiny-base", digest="a" * 64),
    "adapter": Source(id="faq-0123456789", digest="b" * 64),
}
_PROMPT, _CONTINUATION = [1, 2, 3], [4, 5]
_LEVEL = "model.level"


def publish(
    store: Store,
    version: str,
    level: float = 1.0,
    *,
    probed: float | None = None,
    change: Callable[[Path], None] = lambda _: None,
) -> Artifact:
    """A sealed version that answers at `level`; its probes say `probed`, should that be another."""
    with draft(store.model(NAME, version), version) as partial:
        for name, text in TEXTS.items():
            (partial / name).write_text(text)
        write_weights(partial / WEIGHTS, level)
        merged = logprobs(level if probed is None else probed)
        probes = Probes(
            tokenizer_sha256=sha256_of(partial, TOKENIZER),
            chat_template_sha256=sha256_of(partial, CHAT_TEMPLATE),
            probes=[make_probe(base=[-9.0, -9.0], adapter=merged, merged=merged)],
        )
        write_probes(partial, probes)
        change(partial)
        return seal(partial, "model", f"{NAME}/{version}", lineage=LINEAGE)


def write_weights(path: Path, level: float, **others: torch.Tensor) -> None:
    """The level, and a tensor that only has a shape."""
    tensors = {_LEVEL: torch.tensor([level]), "model.embed.weight": torch.zeros(2, 3)}
    save_file(tensors | others, path)


def logprobs(level: float) -> Logprobs:
    """What weights of this level make of the probe's continuation."""
    return [_logprob(level, token) for token in _CONTINUATION]


def _logprob(level: float, token: int) -> float:
    return -(level + token / 100)


class Engine:
    """Holds the weights that it loaded last, answers by them, and notes in turn what is asked of it."""

    def __init__(self, model: Artifact, dtype: str = "float32") -> None:
        self.model_config = SimpleNamespace(dtype=f"torch.{dtype}")
        self.level = _level_of(model.path)
        self.calls: list[str] = []
        self.failing: list[str] = []
        """Calls that fail: each entry once."""
        self.stale = False
        """Says that it loads, and does not."""
        self.drift = 0.0
        """How far beside the mark the version `drifting` is loaded."""
        self.drifting = ""
        self.paused = False
        self.noting: Callable[[str], None] = lambda _: None

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        self._note("pause")
        assert (mode, clear_cache) == ("wait", True)
        self.paused = True

    async def collective_rpc(self, method: str, args: tuple[str]) -> None:
        assert method == "hone_reload"
        folder = Path(args[0])
        loaded, self.level = self.level, 1000.0
        self._note(f"load {folder.name}")
        self.level = loaded if self.stale else _level_of(folder)
        if folder.name == self.drifting:
            self.level += self.drift

    async def resume_generation(self) -> None:
        self._note("resume")
        self.paused = False

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers as vLLM does; 503 while it is paused, which would be to wait for ever."""
        body = json.loads((await receive())["body"])
        if scope["path"] == "/v1/chat/completions":
            call, answer = "render", {"prompt_token_ids": _PROMPT}
        else:
            call, answer = "score" if "prompt_logprobs" in body else "token", self._scored(body["prompt"])
        status = 200
        try:
            self._note(call)
        except RuntimeError:
            status = 500
        status = 503 if self.paused else status
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def _scored(self, prompt: list[int]) -> dict[str, Any]:
        entries = [{str(token): {"logprob": _logprob(self.level, token)}} for token in prompt[1:]]
        return {"choices": [{"prompt_logprobs": [None, *entries]}]}

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.noting(call)
        if call in self.failing:
            self.failing.remove(call)
            raise RuntimeError(f"no {call} today")


def _level_of(folder: Path) -> float:
    tensors = [load_file(path) for path in folder.glob("*.safetensors")]
    return float(next(each[_LEVEL] for each in tensors if _LEVEL in each).item())


def make_serving(store: Store, model: Artifact, engine: Engine, **changes: Any) -> Serving:
    """A server that serves `model`, proven."""
    state = store.root.with_name("state")
    times = {"state": state, "drain_seconds": 5.0, "hang_seconds": 5.0}
    settings = make_settings(store, **(times | changes))
    notes = Notes()
    memory = Memory(record_path(state, store.root, NAME, settings.port), notes)
    lobby: Any = SimpleNamespace(reason="")
    serving = Serving(settings, NAME, model, lobby, notes, memory)
    serving.engine, serving.app = engine, engine.app
    serving.verdict = Verdict(True, "proven", "float32", 1)
    memory.passed(model)
    return serving


def notes_of(serving: Serving) -> Notes:
    assert isinstance(serving.reporter, Notes)
    return serving.reporter


async def until(condition: Callable[[], object], going_on: "asyncio.Task[Any] | None" = None) -> None:
    """Raises TimeoutError, or what ended the task that was to bring it about."""
    async with asyncio.timeout(5):
        while not condition():
            if going_on is not None and going_on.done():
                going_on.result()
                raise AssertionError("it ended without bringing it about")
            await asyncio.sleep(0.001)


def start(
    monkeypatch: pytest.MonkeyPatch, store: Store, serve: Callable[[Serving, socket.socket], None]
) -> list[socket.socket]:
    """Run `hone-server` with `serve` in vLLM's place; where it started itself anew, its socket then."""
    anew: list[socket.socket] = []

    def serve_without_lobby(serving: Serving, listening: socket.socket) -> None:
        serving.lobby.close()
        serve(serving, listening)

    # They are set for vLLM, and must not stay.
    for name in ("VLLM_PLUGINS", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HONE_STATE", str(store.root.with_name("state")))
    monkeypatch.setitem(sys.modules, "hone_server.serve", SimpleNamespace(serve=serve_without_lobby))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["hone-server", "--store", str(store.root), "--port", "0"])
    monkeypatch.setattr(entry, "start_anew", anew.append)
    entry._main()
    return anew


def remembered(store: Store) -> Record:
    """What a server that was started like this knows at its next start."""
    return Memory(record_path(store.root.with_name("state"), store.root, NAME, 0), Notes()).record
