"""What `/metrics` tells of Hone."""

import math

import pytest
from edge_samples import ANSWERED, CHAT, Model, answer, ask, chat, get
from prometheus_client import REGISTRY, generate_latest

from hone_server.current import Serving
from hone_server.edge import Edge
from hone_server.gate import Verdict
from hone_server.metrics import record_model, record_swap, record_verdict


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_gates_verdict() -> None:
    record_verdict(Verdict(True, "as trained", "float32", 3, max_abs_delta=0.01, mean_abs_delta=0.001))
    assert sample("hone_gate_passed") == 1
    assert sample("hone_gate_max_abs_delta") == 0.01
    assert sample("hone_gate_mean_abs_delta") == 0.001
    record_verdict(Verdict(False, "another template", "float32", 3))
    assert sample("hone_gate_passed") == 0
    assert math.isnan(sample("hone_gate_max_abs_delta"))


def test_one_model_is_live() -> None:
    record_model("faq", "v1", "0" * 64)
    record_model("faq", "v2", "1" * 64)
    assert sample("hone_model_info", model="faq", version="v2", digest="1" * 64) == 1
    assert generate_latest().count(b"\nhone_model_info{") == 1


def test_swaps_and_how_long_they_took() -> None:
    before = sample("hone_swaps_total", result="swapped"), sample("hone_swap_seconds_count")
    record_swap("swapped", 0.2, 1.5)
    record_swap("refused", None, None)
    assert sample("hone_swaps_total", result="swapped") == before[0] + 1
    assert sample("hone_swap_seconds_count") == before[1] + 1
    assert sample("hone_drain_seconds_sum") >= 0.2


@pytest.mark.usefixtures("serving")
def test_requests_by_key_route_and_status() -> None:
    def count(key: str, route: str, status: str) -> float:
        return sample("hone_requests_total", key=key, route=route, status=status)

    before = (
        count("second", CHAT, "200"),
        count("second", CHAT, "400"),
        count("second", "/v1/models/{id}", "200"),
    )
    ask(Model(), CHAT, chat())
    ask(Model(), CHAT, chat(n=1000))
    ask(Model(answer=answer(422, {"detail": "x"})), CHAT, chat())
    get(Model(), "/v1/models/any/thing")
    assert count("second", CHAT, "200") == before[0] + 1
    assert count("second", CHAT, "400") == before[1] + 2
    assert count("second", "/v1/models/{id}", "200") == before[2] + 1


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/nowhere", {}, "unknown_url"),
        ("/v1/models", {}, "invalid_api_key"),
        ("/v1/models", {"Authorization": "Bearer wrong"}, "invalid_api_key"),
    ],
)
def test_refused_requests_by_reason(path: str, headers: dict[str, str], reason: str) -> None:
    before = sample("hone_refused_requests_total", reason=reason)
    get(Model(), path, headers)
    assert sample("hone_refused_requests_total", reason=reason) == before + 1


@pytest.mark.usefixtures("serving")
def test_what_a_client_makes_up_is_no_label() -> None:
    ask(Model(), CHAT, chat(zzz_made_up=1))
    get(Model(), "/zzz_made_up", {"Authorization": "Bearer zzz_made_up"})
    assert b"zzz_made_up" not in generate_latest()


def test_requests_that_wait_are_told(serving: Serving) -> None:
    Edge(Model(answer=ANSWERED))
    serving.door.waiting, serving.door.inside = 3, 2
    assert sample("hone_requests_waiting") == 3
    assert sample("hone_requests_inside") == 2
