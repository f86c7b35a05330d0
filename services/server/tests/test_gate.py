"""What the gate lets through, and what it says of the rest."""

from pathlib import Path
from typing import Literal

import pytest
from server_samples import make_probe

from hone_contract.model_files import sha256_of
from hone_contract.probes import Probe, Probes
from hone_server.gate import TOLERANCES, Replay, Verdict, judge, other_files, telling, unchanged


def _judge(served: list[float], dtype: str = "float32", **changes: object) -> Verdict:
    return judge([make_probe(**changes)], [Replay([1, 2, 3], served)], dtype)


def test_the_merged_model_passes_and_its_numbers_are_told() -> None:
    verdict = _judge([-0.1001, -0.2])
    assert verdict.passed
    assert verdict.max_abs_delta == pytest.approx(0.0001)
    assert verdict.mean_abs_delta == pytest.approx(0.00005)
    assert verdict.mean_abs_delta_from_base == pytest.approx((4.8999 + 2.8) / 2)
    assert verdict.tolerance == TOLERANCES["float32"]


def test_the_base_is_recognised() -> None:
    verdict = _judge([-5.0, -3.0])
    assert not verdict.passed
    assert verdict.reason == "the served model equals its base"


def test_a_merge_that_changed_nothing_is_recognised() -> None:
    verdict = _judge([-5.0, -3.0], merged=[-5.0, -3.0])
    assert verdict.reason == "the served model equals its base"


def test_a_merge_that_changed_nothing_but_noise_is_recognised() -> None:
    verdict = _judge([-5.0, -3.0], merged=[-5.0, -3.00001])
    assert verdict.reason == "the served model equals its base"


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_what_is_no_number_is_refused(dtype: str) -> None:
    assert not _judge([float("nan"), -0.2], dtype).passed


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_another_tokenizer_or_template_is_named(tmp_path: Path, name: str) -> None:
    for file in ("tokenizer.json", "chat_template.jinja"):
        (tmp_path / file).write_text("as trained")
    digest = sha256_of(tmp_path, name)
    probes = Probes(tokenizer_sha256=digest, chat_template_sha256=digest, probes=[make_probe()])
    assert other_files(probes, tmp_path) is None
    (tmp_path / name).write_text("another")
    assert name in (other_files(probes, tmp_path) or "")


def test_a_model_nearer_to_the_base_than_to_the_merged_one_is_refused_in_any_dtype() -> None:
    # A subtle fine-tune: in bfloat16 the distances to both are within the tolerance.
    probe = {"base": [-1.00, -1.00], "merged": [-1.10, -1.10]}
    assert _judge([-1.03, -1.03], "bfloat16", **probe).reason == "the served model equals its base"
    assert _judge([-1.08, -1.08], "bfloat16", **probe).passed


def test_another_model_is_refused_with_the_numbers() -> None:
    verdict = _judge([-2.0, -0.2])
    assert not verdict.passed
    assert "not the merged model" in verdict.reason
    assert "1.9000" in verdict.reason


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_one_token_just_outside_the_tolerance_is_enough(dtype: str) -> None:
    limit = TOLERANCES[dtype].max_delta
    # Many right tokens around it, so that the mean does not decide.
    probe = {"base": [-9.0] * 100, "merged": [-0.5] * 100, "continuation_token_ids": [4] * 100}
    assert not _judge([-0.5 - limit * 1.01] + [-0.5] * 99, dtype, **probe).passed
    assert _judge([-0.5 - limit * 0.99] + [-0.5] * 99, dtype, **probe).passed


def test_a_small_drift_everywhere_is_refused_by_the_mean() -> None:
    limit = TOLERANCES["float32"].mean_delta
    assert not _judge([-0.1 - limit * 1.1, -0.2 - limit * 1.1]).passed


def test_other_token_ids_are_refused_whatever_the_logprobs() -> None:
    verdict = judge([make_probe()], [Replay([1, 2, 9], [-0.1, -0.2])], "float32")
    assert not verdict.passed
    assert "from token 2 on" in verdict.reason


def test_a_prompt_that_goes_on_longer_is_refused() -> None:
    assert "from token 3 on" in judge([make_probe()], [Replay([1, 2, 3, 4], [-0.1, -0.2])], "float32").reason


@pytest.mark.parametrize("probes", [[], [make_probe(merged=None)]], ids=["no probe", "not merged"])
def test_nothing_to_compare_with_is_no_pass(probes: list[Probe]) -> None:
    verdict = judge(probes, [Replay([1, 2, 3], [-0.1, -0.2]) for _ in probes], "float32")
    assert not verdict.passed
    assert "merge again" in verdict.reason


@pytest.mark.parametrize("model", ["adapter", "base"])
def test_an_adapter_and_a_base_are_judged_by_their_own_numbers(model: Literal["adapter", "base"]) -> None:
    probe = make_probe()
    own, other = {"adapter": (probe.adapter, probe.base), "base": (probe.base, probe.adapter)}[model]
    assert judge([probe], [Replay([1, 2, 3], own)], "float32", model).passed
    refused = judge([probe], [Replay([1, 2, 3], other)], "float32", model)
    assert not refused.passed
    assert ("equals its base" if model == "adapter" else "not the base model") in refused.reason


def test_a_verdict_can_be_turned_into_a_refusal_with_the_same_numbers() -> None:
    verdict = _judge([-0.1, -0.2])
    refused = verdict.refused("stale")
    assert (refused.passed, refused.reason) == (False, "stale")
    assert refused.to_json() == verdict.to_json() | {"passed": False, "reason": "stale"}


def test_the_probes_that_tell_most_are_those_that_differ_most_from_the_base() -> None:
    probes = [make_probe(base=[-distance, -distance], merged=[0.0, 0.0]) for distance in (3.0, 1.0, 4.0, 2.0)]
    assert telling(probes, 2) == [probes[0], probes[2]]
    assert telling(probes[:1], 2) == probes[:1]


def test_without_a_merged_model_the_adapter_tells() -> None:
    plain, telling_one = make_probe(merged=None, adapter=[-5.0, -3.0]), make_probe(merged=None)
    assert telling([telling_one, plain], 1) == [telling_one]


def test_the_same_numbers_but_for_rounding_come_from_the_same_weights() -> None:
    assert unchanged([[-1.0, -2.0], [-3.0]], [[-1.00001, -2.0], [-3.0]])
    # One token of one probe is enough.
    assert not unchanged([[-1.0, -2.0], [-3.0]], [[-1.0, -2.0], [-3.001]])
