"""Serves every adapter of one base under its own name, loaded and proven when it is first asked for.

The second serving form. Names are those of the store, so no client says what is loaded from where.
"""

import asyncio
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.lora.peft_helper import PEFTHelper

from hone_contract.artifact import Artifact, held, open_artifact
from hone_contract.errors import BadConfiguration, HoneError
from hone_contract.probes import read_probes
from hone_server.adapter_list import NoSuchAdapter, NotServed, adapters_of
from hone_server.apart import apart
from hone_server.current import Serving
from hone_server.gate import Verdict, excerpt, judge, other_files
from hone_server.proof import is_acceptable
from hone_server.replay import replay_by_steps


@dataclass(frozen=True)
class Loaded:
    """An adapter that the engine has, and that is proven."""

    model: Artifact
    verdict: Verdict
    holding: ExitStack


class Adapters:
    """Those that are loaded, the one that was used last at the end."""

    def __init__(self, serving: Serving, models: Any) -> None:
        """`models` is vLLM's own list of what can be asked for (OpenAIServingModels)."""
        self._serving, self._models = serving, models
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asked: Counter[str] = Counter()
        """How many requests are under way for each."""
        self._refused: dict[str, str] = {}
        """Why an adapter is not served, by its digest."""

    @property
    def loaded(self) -> dict[str, Verdict]:
        return {name: each.verdict for name, each in self._loaded.items()}

    @asynccontextmanager
    async def admitted(self, name: str) -> AsyncIterator[None]:
        """Loaded and proven, and kept until the body ends. Raises NoSuchAdapter or NotServed."""
        if name not in self._loaded:
            # Names that clients make up would fill the memory.
            self._path(name)
        self._asked[name] += 1
        try:
            await self._admit(name)
            yield
        finally:
            self._asked[name] -= 1

    async def _admit(self, name: str) -> None:
        async with self._locks[name]:
            if name not in self._loaded:
                path = self._path(name)
                model = await apart(lambda: self._examined(path))
                self._loaded[name] = await self._load(name, model)
        self._loaded.move_to_end(name)
        await self._make_room()

    def _path(self, name: str) -> Path:
        try:
            path = self._serving.settings.store.adapter(name)
        except BadConfiguration as error:
            raise NoSuchAdapter(str(error)) from error
        if not path.is_dir():
            raise NoSuchAdapter(f"The model {name!r} does not exist")
        return path

    def _examined(self, path: Path) -> Artifact:
        """What can be refused without reading every byte is refused before."""
        base = self._serving.model
        try:
            model = open_artifact(path, "adapter")
            if model.manifest.lineage["base"].digest != base.manifest.digest:
                raise NotServed(f"{path.name} was trained on another base than {base.manifest.id}")
            if reason := self._refused.get(model.manifest.digest) or self._unfit(model):
                raise NotServed(reason)
            return open_artifact(path, "adapter", digests=True)
        except HoneError as error:
            raise NotServed(str(error)) from error

    def _unfit(self, model: Artifact) -> str | None:
        """What this engine cannot do of it; None: nothing."""
        name, remedy = model.manifest.id, f"fuse it instead: hone-merger merge {model.manifest.id}"
        if changed := other_files(read_probes(model.path), self._serving.model.path):
            return f"{name}: {changed.replace('its', 'the base')}; {remedy}"
        try:
            helper = PEFTHelper.from_local_dir(str(model.path), None)
            helper.validate_legal(self._serving.engine.vllm_config.lora_config)
        except (ValueError, TypeError) as error:
            return f"{name}: {error} {remedy[0].upper()}{remedy[1:]}"
        return None

    async def _load(self, name: str, model: Artifact) -> Loaded:
        with ExitStack() as holding:
            await apart(lambda: holding.enter_context(held(model.path)))
            request = LoadLoRAAdapterRequest(lora_name=name, lora_path=str(model.path))
            answer = await self._models.load_lora_adapter(request)
            if not isinstance(answer, str):
                raise NotServed(f"{name}: the engine does not take it: {answer.error.message}")
            verdict = await self._prove(name, model)
            if not is_acceptable(self._serving, verdict):
                await self._unload(name)
                self._refused[model.manifest.digest] = f"{name}: {verdict.reason}"
                raise NotServed(f"{name}: {verdict.reason}")
            return Loaded(model, verdict, holding.pop_all())

    async def _prove(self, name: str, model: Artifact) -> Verdict:
        serving = self._serving
        try:
            probes = excerpt((await apart(lambda: read_probes(model.path))).probes)
            return judge(probes, await replay_by_steps(serving.app, name, probes), serving.dtype, "adapter")
        except HoneError as error:
            await self._unload(name)
            raise NotServed(f"{name}: {error}") from error

    async def _make_room(self) -> None:
        """Unload those that nobody asks for now, the one that was used longest ago first."""
        for name in [name for name in self._loaded if not self._asked[name]]:
            if len(self._loaded) <= self._serving.settings.adapters_loaded:
                return
            async with self._locks[name]:
                if not self._asked[name] and (oldest := self._loaded.pop(name, None)):
                    await self._unload(name)
                    oldest.holding.close()

    async def _unload(self, name: str) -> None:
        await self._models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))


async def prove_base(serving: Serving) -> Verdict:
    """Whether the engine serves the base, by what the probes of its adapters say of it.

    Without an adapter that has the base's own template there is nothing to compare with but its files, whose
    digests were compared before.
    """
    for adapter in adapters_of(serving.settings.store, serving.model):
        recorded = read_probes(adapter.path)
        if other_files(recorded, serving.model.path) is None:
            probes = excerpt(recorded.probes)
            replays = await replay_by_steps(serving.app, serving.name, probes)
            return judge(probes, replays, serving.dtype, "base")
    reason = "no adapter has probes of the base yet: only its files were compared"
    return Verdict(True, reason, serving.dtype, 0)
