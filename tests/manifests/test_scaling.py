"""More servers: who counts them, by what, where they stand, and what goes first."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from rendered import (
    API,
    COMPONENTS,
    DEMO,
    MULTINODE,
    ROOT,
    SERVING,
    TRAINING,
    Object,
    built,
    containers,
    of_kind,
    pods,
    selects,
    upon,
    yaml_of,
)
from watching import metrics_of, named_metrics, promtool

from hone_api.settings import load_settings

PAGE = ROOT / "docs" / "scaling-out.md"
OPERATING = ROOT / "docs" / "operating.md"
SCALERS = {
    "autoscaling": "HorizontalPodAutoscaler",
    "autoscaling-keda": "ScaledObject",
    "scale-to-zero": "ScaledObject",
}


def test_the_page_names_only_what_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w./-])k8s/[\w./-]*[\w/]", text):
        assert (ROOT / path).exists(), path
    named = set(re.findall(r"(?<![\w/-])(?:\.\./)*components/([\w-]+)", text))
    assert {f"k8s/components/{name}" for name in named} <= set(COMPONENTS)


# -- how many --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlay", "component"),
    [
        (DEMO, "autoscaling"),
        (SERVING, "autoscaling"),
        (DEMO, "autoscaling-keda"),
        (SERVING, "autoscaling-keda"),
        (API, "scale-to-zero"),
    ],
)
def test_what_scales_the_server_is_not_set_back_by_an_apply(overlay: str, component: str) -> None:
    source = upon(overlay, component)
    (scaler,) = of_kind(source, SCALERS[component])
    target = scaler["spec"]["scaleTargetRef"]
    assert target.get("kind", "Deployment") == "Deployment"
    scaled, plain = (
        {each["metadata"]["name"]: each for each in of_kind(of, "Deployment")} for of in (source, overlay)
    )
    server = scaled.pop(target["name"])["spec"]
    assert "replicas" not in server
    assert plain.pop(target["name"])["spec"] == server | {"replicas": 1}
    assert scaled == plain


def test_there_is_always_a_server_and_never_more_than_is_said() -> None:
    horizontal, keda = _horizontal()["spec"], _keda()["spec"]
    assert horizontal["minReplicas"] == keda["minReplicaCount"] == 1
    assert horizontal["maxReplicas"] == keda["maxReplicaCount"] > 1
    # KEDA would go there when nobody waits, and nobody would count who comes then.
    assert "idleReplicaCount" not in keda


def test_all_scale_alike_and_stop_what_costs_minutes_to_start_only_after_long() -> None:
    behavior = _horizontal()["spec"]["behavior"]
    for keda in (_keda(), _to_zero()):
        assert behavior == keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 10 * up["stabilizationWindowSeconds"]
    assert [(each["type"], each["value"]) for each in down["policies"]] == [("Pods", 1)]
    assert _to_zero()["spec"]["cooldownPeriod"] >= down["stabilizationWindowSeconds"]


def test_both_look_at_a_metric_that_servers_have() -> None:
    """Each of those that rules name has samples of a real server: tests/e2e/test_observability.py."""
    (rule,) = _adapter_rules()
    (metric,) = metrics_of(rule["seriesQuery"])
    assert metric in named_metrics()
    assert metrics_of(_trigger(_keda())["query"]) == {metric}


def test_the_guides_rule_for_the_adapter_makes_the_metric_that_is_asked_for() -> None:
    (rule,), (asked,) = _adapter_rules(), _horizontal()["spec"]["metrics"]
    (metric,) = metrics_of(rule["seriesQuery"])
    assert re.fullmatch(rule["name"]["matches"], metric)
    assert rule["name"]["as"] == asked["pods"]["metric"]["name"]
    # A name of the custom metrics API is a part of a path.
    assert re.fullmatch(r"[a-z_]+", rule["name"]["as"])
    assert asked["pods"]["target"]["averageValue"] == _trigger(_keda())["threshold"]


@pytest.mark.parametrize(
    ("overlay", "component", "service"),
    [(SERVING, "autoscaling-keda", "hone-server"), (API, "scale-to-zero", "hone-api")],
)
def test_kedas_question_has_the_labels_that_the_monitor_gives(
    overlay: str, component: str, service: str
) -> None:
    source = upon(overlay, component, "monitoring", "pod-security")
    (scaler,), (namespace,) = of_kind(source, "ScaledObject"), of_kind(source, "Namespace")
    labels = _labels(_trigger(scaler))
    assert (labels["job"], labels["namespace"]) == (service, namespace["metadata"]["name"])
    (monitor,) = (each for each in of_kind(source, "ServiceMonitor") if each["metadata"]["name"] == service)
    assert service in [each["metadata"]["name"] for each in of_kind(source, "Service")]
    # Which would give `job` another value than the Service's name.
    assert "jobLabel" not in monitor["spec"]


def test_prometheus_can_parse_kedas_question(prometheus: Path, tmp_path: Path) -> None:
    rules = [{"record": "asked", "expr": _trigger(_keda())["query"]}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool(prometheus, "check", "rules", "--lint=none", "rules.yaml", cwd=tmp_path)


# -- to none and back ------------------------------------------------------------------------------


def test_a_server_is_stopped_and_woken_by_what_the_api_counts() -> None:
    spec, trigger = _to_zero()["spec"], _trigger(_to_zero())
    assert spec["minReplicaCount"] == 0 < spec["maxReplicaCount"]
    # One request is enough, and an answer that is missing is none.
    assert (trigger["activationThreshold"], trigger["ignoreNullValues"]) == ("0", "false")
    asked = re.compile(re.findall(r'__name__=~"([^"]*)"', trigger["query"])[0])
    assert {name for name in named_metrics() if asked.fullmatch(name)} == {
        "hone_api_held_requests",
        "hone_api_server_requests",
    }


def test_the_settings_that_the_page_shows_hold_requests_for_that_server(tmp_path: Path) -> None:
    (shown,) = (each for each in yaml_of(OPERATING) if "servers" in each)
    (config,) = (each for each in of_kind(API, "ConfigMap") if "hone-api.yaml" in each["data"])
    settings = yaml.safe_load(config["data"]["hone-api.yaml"])
    (tmp_path / "hone-api.yaml").write_text(yaml.safe_dump(settings | shown), encoding="utf-8")
    (server,), (plain,) = load_settings(tmp_path / "hone-api.yaml", {}).servers, settings["servers"]
    assert (server.url, server.base) == (plain["url"], plain["base"])
    assert server.url == _labels(_trigger(_to_zero()))["server"]
    assert server.hold_seconds > 0


def test_one_request_wakes_a_server_a_running_one_keeps_it_and_no_figure_is_no_zero(
    prometheus: Path, tmp_path: Path
) -> None:
    ours = 'job="hone-api", namespace="hone", server="http://hone-server:8000"'
    others = ours.replace('"hone"', '"other"')
    # Each number for a minute: nobody, one that waits, two with the server, then an api that is not scraped.
    series = {
        f"hone_api_held_requests{{{ours}}}": "0 1 0 stale",
        f"hone_api_server_requests{{{ours}}}": "_ 0 2 stale",
        f"hone_api_held_requests{{{others}}}": "7 7 7 7",
        f"hone_api_requests_total{{{ours}}}": "9 9 9 9",
    }
    query = _trigger(_to_zero())["query"]
    expected = [[0], [1], [2], []]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": value} for value in values],
            }
            for minute, values in enumerate(expected)
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    promtool(prometheus, "test", "rules", "test.yaml", cwd=tmp_path)


def _horizontal() -> Object:
    (found,) = of_kind(upon(SERVING, "autoscaling"), "HorizontalPodAutoscaler")
    return found


def _keda() -> Object:
    (found,) = of_kind(upon(SERVING, "autoscaling-keda"), "ScaledObject")
    return found


def _to_zero() -> Object:
    (found,) = of_kind(upon(API, "scale-to-zero"), "ScaledObject")
    return found


def _trigger(scaled: Object) -> dict[str, str]:
    (trigger,) = scaled["spec"]["triggers"]
    metadata: dict[str, str] = trigger["metadata"]
    return metadata


def _labels(trigger: dict[str, str]) -> dict[str, str]:
    """What the question wants of a sample."""
    return dict(re.findall(r'(\w+)="([^"]*)"', trigger["query"]))


def _adapter_rules() -> list[Object]:
    (shown,) = (each for each in yaml_of(PAGE) if "rules" in each)
    rules: list[Object] = shown["rules"]
    return rules


# -- where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", [DEMO, SERVING])
def test_a_drain_stops_one_server_at_a_time_and_is_never_blocked_by_a_single_one(overlay: str) -> None:
    (budget,) = of_kind(upon(overlay, "spread"), "PodDisruptionBudget")
    spec = budget["spec"]
    # Of one server, one may go; minAvailable 1 or maxUnavailable 0 would say that none may.
    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    protected = {
        each.image
        for each in containers(overlay)
        for _, metadata, pod in pods(overlay)
        if pod is each.pod and selects(spec["selector"], metadata["labels"])
    }
    assert protected == {"hone-server"}


@pytest.mark.parametrize("overlay", [DEMO, SERVING])
def test_servers_are_spread_as_far_as_there_is_room(overlay: str) -> None:
    (deployment,) = of_kind(upon(overlay, "spread"), "Deployment")
    template = deployment["spec"]["template"]
    constraints = template["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in constraints} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    for each in constraints:
        # DoNotSchedule would keep a second server from the only node that has a GPU.
        assert each["whenUnsatisfiable"] == "ScheduleAnyway"
        assert selects(each["labelSelector"], template["metadata"]["labels"])


def test_the_guides_patch_gives_a_server_a_volume_of_its_own() -> None:
    (patch,) = (each for each in yaml_of(PAGE) if each.get("kind") == "Deployment")
    made = yaml.safe_load_all(built([SERVING], [], patches=[{"patch": yaml.safe_dump(patch)}]))
    (deployment,) = (each for each in made if each["kind"] == "Deployment")
    assert kubernetes_validate.validate(deployment, "1.29", strict=True) == "1.29"
    pod = deployment["spec"]["template"]["spec"]
    (store,) = (each for each in pod["volumes"] if each["name"] == "store")
    assert store.keys() == {"name", "emptyDir"}
    (pull,), (server,) = pod["initContainers"], pod["containers"]
    # The namespace may be held to `restricted`, and what is filled is what is served.
    assert pull["securityContext"] == server["securityContext"]
    assert {"name": "store", "mountPath": "/store"} in pull["volumeMounts"]
    assert pull["args"][-1] == f"/store/models/{server['args'][-1]}"


# -- what goes first -------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", [DEMO, SERVING, TRAINING, MULTINODE, API])
def test_every_pod_has_a_class_that_is_there(overlay: str) -> None:
    source = upon(overlay, "priority")
    known = {each["metadata"]["name"] for each in of_kind(source, "PriorityClass")}
    asked = {where: pod["priorityClassName"] for where, _, pod in pods(source)}
    assert set(asked.values()) <= known
    for where, name in asked.items():
        assert name == ("hone-serving" if "Deployment" in where else "hone-training"), where


def test_serving_goes_before_training_which_stops_nobody() -> None:
    classes = {each["metadata"]["name"]: each for each in of_kind(upon(DEMO, "priority"), "PriorityClass")}
    serving, training = classes["hone-serving"], classes["hone-training"]
    assert serving["value"] > training["value"] > 0
    assert training["preemptionPolicy"] == "Never"
    assert serving.get("preemptionPolicy", "PreemptLowerPriority") == "PreemptLowerPriority"
    assert not any(each.get("globalDefault") for each in classes.values())
