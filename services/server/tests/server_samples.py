"""Settings and a probe to vary."""

from hone_contract.probes import Probe
from hone_contract.store import Store
from hone_server.settings import Settings


def make_settings(store: Store, **changes: object) -> Settings:
    values: dict[str, object] = {
        "store": store,
        "model": None,
        "host": "127.0.0.1",
        "port": 0,
        "dtype": "auto",
        "gate": "enforce",
        "wait_seconds": 0.0,
        "kv_cache_memory": "1G",
        "keys": (),
        "vllm_arguments": (),
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]


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
