"""Settings and a probe to vary, and a reporter that keeps what it is told."""

from pathlib import Path

from pydantic import JsonValue

from hone_contract.events import Level, Reporter
from hone_contract.probes import Probe
from hone_contract.store import Store
from hone_server.keys import Key, read_keys
from hone_server.limits import Limits, RateLimits
from hone_server.settings import Settings


def make_settings(store: Store, **changes: object) -> Settings:
    values: dict[str, object] = {
        "store": store,
        "model": None,
        "base": None,
        "adapters_at_once": 2,
        "adapters_loaded": 4,
        "host": "127.0.0.1",
        "port": 0,
        "dtype": "auto",
        "gate": "enforce",
        "wait_seconds": 0.0,
        "drain_seconds": 5.0,
        "hang_seconds": 5.0,
        "kv_cache_memory": "1G",
        "state": store.root.parent / "state",
        "keys": (),
        "key_file": None,
        "keyless": False,
        "open_metrics": False,
        "limits": Limits(),
        "rates": RateLimits(),
        "vllm_arguments": (),
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]


def make_keys(text: str) -> tuple[Key, ...]:
    return read_keys(text, "test")


def make_probe(**changes: object) -> Probe:
    values: dict[str, object] = {
        "messages": [{"role": "user", "content": "What is Hone?"}],
        "prompt_token_ids": [1, 2, 3],
        "continuation_token_ids": [4, 5],
        "base": [-5.0, -3.0],
        "adapter": [-0.11, -0.21],
        "merged": [-0.1, -0.2],
    }
    return Probe(**(values | changes))  # type: ignore[arg-type]


class Notes(Reporter):
    """Keeps what it is told, as (event, message)."""

    def __init__(self, service: str = "server", file: Path | None = None) -> None:
        super().__init__(service, file)
        self.told: list[tuple[str, str]] = []

    def tell(self, event: str, message: str, *, level: Level = "info", **data: JsonValue) -> None:  # noqa: ARG002
        self.told.append((event, message))

    def named(self, event: str) -> list[str]:
        return [message for name, message in self.told if name == event]
