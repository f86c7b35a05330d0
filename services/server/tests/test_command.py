"""What is said to vLLM."""

import os
from pathlib import Path

import pytest
from server_samples import make_settings

from hone_contract.store import Store
from hone_server.command import set_environment, vllm_arguments
from hone_server.limits import Limits

MODEL = Path("/store/models/faq/v1")


def _value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_one_model_under_its_own_name_and_template(store: Store) -> None:
    arguments = vllm_arguments(make_settings(store), "faq", MODEL, 8001, on_cpu=True)
    assert _value(arguments, "--model") == str(MODEL)
    assert _value(arguments, "--served-model-name") == "faq"
    assert _value(arguments, "--chat-template") == str(MODEL / "chat_template.jinja")
    assert _value(arguments, "--port") == "8001"
    assert "--trust-remote-code" not in arguments


def test_a_cpu_serves_eagerly_in_float32_with_a_bounded_cache(store: Store) -> None:
    arguments = vllm_arguments(make_settings(store), "faq", MODEL, 1, on_cpu=True)
    assert "--enforce-eager" in arguments
    assert _value(arguments, "--dtype") == "float32"
    assert _value(arguments, "--kv-cache-memory-bytes") == "1G"


def test_a_gpu_decides_by_itself(store: Store) -> None:
    arguments = vllm_arguments(make_settings(store), "faq", MODEL, 1, on_cpu=False)
    assert "--enforce-eager" not in arguments
    assert "--kv-cache-memory-bytes" not in arguments
    assert _value(arguments, "--dtype") == "auto"


def test_an_asked_for_dtype_is_kept_on_a_cpu(store: Store) -> None:
    settings = make_settings(store, dtype="bfloat16")
    assert _value(vllm_arguments(settings, "faq", MODEL, 1, on_cpu=True), "--dtype") == "bfloat16"


def test_own_arguments_come_last_so_that_they_win(store: Store) -> None:
    settings = make_settings(store, vllm_arguments=("--", "--max-model-len", "512"))
    assert vllm_arguments(settings, "faq", MODEL, 1, on_cpu=True)[-2:] == ["--max-model-len", "512"]


def test_the_worker_can_take_over_other_weights(store: Store) -> None:
    arguments = vllm_arguments(make_settings(store), "faq", MODEL, 1, on_cpu=True)
    assert _value(arguments, "--worker-extension-cls") == "hone_server.worker.Reload"


def test_of_a_merged_model_adapters_are_not_enabled(store: Store) -> None:
    arguments = vllm_arguments(make_settings(store), "faq", MODEL, 1, on_cpu=True)
    assert not [argument for argument in arguments if "lora" in argument]
    assert "--logits-processors" not in arguments


def test_a_base_is_served_with_room_for_adapters(store: Store) -> None:
    settings = make_settings(store, base="tiny", adapters_at_once=3, adapters_loaded=5)
    arguments = vllm_arguments(settings, "tiny", MODEL, 1, on_cpu=True, rank=16)
    assert "--enable-lora" in arguments
    assert _value(arguments, "--max-loras") == "3"
    assert _value(arguments, "--max-cpu-loras") == "5"
    assert _value(arguments, "--max-lora-rank") == "16"


def test_the_logits_processor_is_the_one_that_fits(store: Store) -> None:
    arguments = vllm_arguments(make_settings(store), "faq", MODEL, 1, on_cpu=True, processor="module.Class")
    assert _value(arguments, "--logits-processors") == "module.Class"


def test_a_limit_of_tokens_holds_for_who_names_none(store: Store) -> None:
    arguments = vllm_arguments(make_settings(store, limits=Limits(tokens=99)), "faq", MODEL, 1, on_cpu=True)
    assert _value(arguments, "--override-generation-config") == '{"max_new_tokens": 99}'


def test_nothing_is_fetched_or_reported_and_only_our_plugin_loads(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    for name in ("VLLM_PLUGINS", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "before")
    set_environment(make_settings(store))
    assert os.environ["VLLM_PLUGINS"] == "hone"
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "before"
