"""What a component selects is there, and lets in and out whom it says."""

from typing import Any

import pytest
from rendered import CHAT, COMPONENTS, DEMO, FILES, ROOT, Object, containers, objects, of_kind, pods

TRAINING = "k8s/overlays/gpu/training"
SERVING = "k8s/overlays/gpu"
POLICIES = f"{DEMO} with {','.join(COMPONENTS)}"
DNS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]


def _with(overlay: str, *names: str) -> str:
    return f"{overlay} with {','.join(f'k8s/components/{name}' for name in names)}"


def test_every_component_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "run-on-kubernetes.md").read_text(encoding="utf-8")
    assert [name for name in COMPONENTS if f"`{name.removeprefix('k8s/')}`" not in guide] == []


# -- monitoring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", [DEMO, SERVING])
def test_the_servers_monitor_finds_its_service_and_shows_its_key(overlay: str) -> None:
    source = _with(overlay, "monitoring")
    (monitor,), (service,) = of_kind(source, "ServiceMonitor"), of_kind(source, "Service")
    assert _selects(monitor["spec"]["selector"], service["metadata"]["labels"])
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    (server,) = (each for each in containers(source) if each.serves)
    (key,) = (each for each in server.spec["env"] if each["name"] == "HONE_API_KEY")
    assert endpoint["authorization"]["credentials"] == key["valueFrom"]["secretKeyRef"]


@pytest.mark.parametrize("overlay", [DEMO, TRAINING])
def test_the_monitor_of_training_finds_a_port_at_which_the_trainer_answers(overlay: str) -> None:
    source = _with(overlay, "monitoring", "training-metrics")
    (monitor,) = of_kind(source, "PodMonitor")
    (trainer,) = (each for each in containers(source) if each.image == "hone-trainer")
    (labels,) = (metadata["labels"] for _, metadata, pod in pods(source) if pod is trainer.pod)
    assert _selects(monitor["spec"]["selector"], labels)
    (port,) = trainer.spec["ports"]
    assert [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]] == [port["name"]]
    environment = {each["name"]: each.get("value") for each in trainer.spec["env"]}
    assert environment["HONE_METRICS_PORT"] == str(port["containerPort"])
    assert environment["HONE_METRICS_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("overlay", [DEMO, TRAINING])
def test_only_the_trainer_gets_the_port(overlay: str) -> None:
    source = _with(overlay, "training-metrics")
    ports = {each.image for each in containers(source) if "metrics" in str(each.spec.get("ports"))}
    assert ports == {"hone-trainer"}


def test_the_dashboards_are_where_grafana_looks_for_them() -> None:
    (dashboards,) = of_kind(_with(SERVING, "monitoring"), "ConfigMap")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["data"].keys() == {"serving.json", "training.json"}


# -- network policies ------------------------------------------------------------------------------


def test_every_pod_is_denied_whatever_is_not_allowed() -> None:
    deny = _policy("hone-deny")
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not deny.keys() & {"ingress", "egress"}
    for source in (POLICIES, TRAINING, SERVING, CHAT, *FILES):
        for where, metadata, _ in pods(source):
            assert _selects(deny["podSelector"], metadata["labels"]), where


def test_the_chat_may_ask_the_server_and_the_server_nobody() -> None:
    chat, server = _labels(CHAT, "hone-chat"), _labels(DEMO, "hone-server")
    (rule,) = _policy("hone-server")["ingress"]
    assert any(_selects(peer["podSelector"], chat) for peer in rule["from"])
    assert rule["ports"] == [{"port": "http"}]
    there, names = _going_out(chat)
    assert _selects(_policy("hone-chat")["podSelector"], chat)
    assert _selects(there["to"][0]["podSelector"], server)
    assert names["ports"] == DNS
    assert _going_out(server) == []


@pytest.mark.parametrize("image", ["hone-trainer", "hone-merger"])
def test_training_may_look_up_names_and_the_merger_not_even_that(image: str) -> None:
    labels = _labels(DEMO, image)
    plain = _with(DEMO, "network-policy")
    allowed = [rule["ports"] for rule in _going_out(labels, plain)]
    assert allowed == ([DNS] if image == "hone-trainer" else [])


def test_the_job_of_one_pod_is_training_too() -> None:
    labels = next(metadata["labels"] for _, metadata, _ in pods("k8s/train-job.yaml"))
    assert len(_going_out(labels)) == 2


def test_the_hub_is_reached_by_https_and_never_by_an_address_of_the_cluster() -> None:
    (rule,) = _policy("hone-hub")["egress"]
    assert rule["ports"] == [{"port": 443, "protocol": "TCP"}]
    for block in (peer["ipBlock"] for peer in rule["to"]):
        assert block["except"], block


def _policy(name: str) -> dict[str, Any]:
    (policy,) = (each for each in of_kind(POLICIES, "NetworkPolicy") if each["metadata"]["name"] == name)
    spec: dict[str, Any] = policy["spec"]
    return spec


def _going_out(labels: Object, source: str = POLICIES) -> list[Object]:
    """What the policies let pods of these labels ask."""
    return [
        rule
        for each in of_kind(source, "NetworkPolicy")
        if _selects(each["spec"]["podSelector"], labels)
        for rule in each["spec"].get("egress", [])
    ]


def _labels(source: str, image: str) -> Object:
    found: Object = next(
        metadata["labels"]
        for _, metadata, pod in pods(source)
        if any(image in each["image"] for each in pod["containers"])
    )
    return found


def _selects(selector: Object, labels: Object) -> bool:
    """As Kubernetes matches labels; operators that are used here alone."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", [])
    )


def test_a_selector_is_read_as_kubernetes_reads_it() -> None:
    selector = {
        "matchLabels": {"a": "1"},
        "matchExpressions": [{"key": "b", "operator": "In", "values": ["2"]}],
    }
    assert _selects(selector, {"a": "1", "b": "2", "c": "3"})
    assert not _selects(selector, {"a": "1", "b": "3"})
    assert not _selects(selector, {"b": "2"})
    assert _selects({}, {"any": "thing"})


def test_objects_of_components_belong_to_hone() -> None:
    for each in objects(POLICIES):
        labels = each["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "hone", each["metadata"]["name"]
