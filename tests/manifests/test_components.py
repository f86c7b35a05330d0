"""What a component selects is there, and lets in and out whom it says."""

from typing import Any

import pytest
from rendered import (
    API,
    CHAT,
    COMBINATIONS,
    COMPONENTS,
    DEMO,
    FILES,
    ROOT,
    SERVING,
    TRAINING,
    Object,
    all_upon,
    containers,
    objects,
    of_kind,
    pods,
    selects,
    upon,
)
from watching import DASHBOARDS

from hone_api.serving.deployment import TEMPLATE, make_service

POLICIES = all_upon(DEMO)[0]
DNS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]


def test_every_component_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "run-on-kubernetes.md").read_text(encoding="utf-8")
    assert [name for name in COMPONENTS if f"`{name.removeprefix('k8s/')}`" not in guide] == []


# -- monitoring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", [DEMO, SERVING])
def test_the_servers_monitor_finds_its_service_and_shows_its_key(overlay: str) -> None:
    source = upon(overlay, "monitoring")
    endpoint = _scraped(source, "hone-server")
    (server,) = (each for each in containers(source) if each.serves)
    (key,) = (each for each in server.spec["env"] if each["name"] == "HONE_API_KEY")
    assert endpoint["authorization"]["credentials"] == key["valueFrom"]["secretKeyRef"]


def test_the_apis_monitor_finds_its_service_and_is_let_in_without_a_key() -> None:
    source = upon(API, "monitoring", "network-policy")
    endpoint = _scraped(source, "hone-api")
    assert "authorization" not in endpoint
    scraping = _policy("hone-scraping", source)
    assert selects(scraping["podSelector"], _labels(source, "hone-api"))
    (rule,) = scraping["ingress"]
    (api,) = (each for each in containers(source) if each.image == "hone-api")
    (port,) = api.spec["ports"]
    assert port["name"] == endpoint["port"] and {"port": port["name"]} in rule["ports"]


def test_servers_that_the_api_makes_are_scraped_as_the_bases_is_under_another_name() -> None:
    source = upon(API, "monitoring", "model-servers")
    monitors = {each["metadata"]["name"]: each["spec"] for each in of_kind(source, "ServiceMonitor")}
    (template,) = (each for each in of_kind(source, "PodTemplate") if each["metadata"]["name"] == TEMPLATE)
    service = make_service("bot", template)
    finding = [
        name for name, spec in monitors.items() if selects(spec["selector"], service["metadata"]["labels"])
    ]
    assert finding == ["hone-model-server"]
    (endpoint,) = monitors["hone-model-server"]["endpoints"]
    assert endpoint.pop("relabelings") == [{"targetLabel": "job", "replacement": "hone-model-server"}]
    assert [endpoint] == monitors["hone-server"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]


def _scraped(source: str, name: str) -> Object:
    """What Prometheus asks of the only Service that its monitor selects."""
    (monitor,) = (each for each in of_kind(source, "ServiceMonitor") if each["metadata"]["name"] == name)
    chosen = monitor["spec"]["selector"]
    (service,) = (
        each for each in of_kind(source, "Service") if selects(chosen, each["metadata"].get("labels", {}))
    )
    assert service["metadata"]["name"] == name
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    found: Object = endpoint
    return found


@pytest.mark.parametrize("overlay", [DEMO, TRAINING, API])
def test_the_monitor_of_training_finds_a_port_at_which_the_trainer_answers(overlay: str) -> None:
    source = upon(overlay, "monitoring", "training-metrics")
    (monitor,) = of_kind(source, "PodMonitor")
    (trainer,) = (
        each for each in containers(source) if each.image == "hone-trainer" and each.spec.get("ports")
    )
    (labels,) = (metadata["labels"] for _, metadata, pod in pods(source) if pod is trainer.pod)
    assert selects(monitor["spec"]["selector"], labels)
    (port,) = trainer.spec["ports"]
    assert [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]] == [port["name"]]
    environment = {each["name"]: each.get("value") for each in trainer.spec["env"]}
    assert environment["HONE_METRICS_PORT"] == str(port["containerPort"])
    assert environment["HONE_METRICS_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("overlay", [DEMO, TRAINING, API])
def test_only_what_trains_gets_the_port(overlay: str) -> None:
    source = upon(overlay, "training-metrics")
    (found,) = (each for each in containers(source) if "metrics" in str(each.spec.get("ports")))
    assert (found.image, found.spec["args"][0]) == ("hone-trainer", "train")


def test_the_dashboards_are_where_grafana_looks_for_them() -> None:
    (dashboards,) = of_kind(upon(SERVING, "monitoring"), "ConfigMap")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["data"].keys() == {path.name for path in DASHBOARDS}


# -- network policies ------------------------------------------------------------------------------


def test_every_pod_is_denied_whatever_is_not_allowed() -> None:
    deny = _policy("hone-deny")
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not deny.keys() & {"ingress", "egress"}
    for source in (POLICIES, TRAINING, SERVING, CHAT, *FILES):
        for where, metadata, _ in pods(source):
            assert selects(deny["podSelector"], metadata["labels"]), where


def test_the_chat_may_ask_the_server_and_the_server_nobody() -> None:
    chat, server = _labels(CHAT, "hone-chat"), _labels(DEMO, "hone-server")
    (rule,) = _policy("hone-server", upon(DEMO, "network-policy"))["ingress"]
    assert any(selects(peer["podSelector"], chat) for peer in rule["from"])
    assert rule["ports"] == [{"port": "http"}]
    there, names = _going_out(chat)
    assert selects(_policy("hone-chat")["podSelector"], chat)
    assert selects(there["to"][0]["podSelector"], server)
    assert names["ports"] == DNS
    assert _going_out(server) == []


@pytest.mark.parametrize("image", ["hone-trainer", "hone-merger"])
def test_training_may_look_up_names_and_the_merger_not_even_that(image: str) -> None:
    labels = _labels(DEMO, image)
    plain = upon(DEMO, "network-policy")
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


def _policy(name: str, source: str = POLICIES) -> dict[str, Any]:
    (policy,) = (each for each in of_kind(source, "NetworkPolicy") if each["metadata"]["name"] == name)
    spec: dict[str, Any] = policy["spec"]
    return spec


def _going_out(labels: Object, source: str = POLICIES) -> list[Object]:
    """What the policies let pods of these labels ask."""
    return [
        rule
        for each in of_kind(source, "NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels)
        for rule in each["spec"].get("egress", [])
    ]


def _labels(source: str, image: str) -> Object:
    found: Object = next(
        metadata["labels"]
        for _, metadata, pod in pods(source)
        if any(image in each["image"] for each in pod["containers"])
    )
    return found


def test_a_selector_is_read_as_kubernetes_reads_it() -> None:
    selector = {
        "matchLabels": {"a": "1"},
        "matchExpressions": [{"key": "b", "operator": "In", "values": ["2"]}],
    }
    assert selects(selector, {"a": "1", "b": "2", "c": "3"})
    assert not selects(selector, {"a": "1", "b": "3"})
    assert not selects(selector, {"b": "2"})
    assert selects({}, {"any": "thing"})


@pytest.mark.parametrize("source", COMBINATIONS)
def test_objects_of_components_belong_to_hone(source: str) -> None:
    for each in objects(source):
        labels = each["metadata"].get("labels", {})
        generated = each["metadata"]["name"].startswith("hone-run-my-model-1-")
        assert labels.get("app.kubernetes.io/part-of") == "hone" or generated, each["metadata"]["name"]


# -- from outside ----------------------------------------------------------------------------------

KINDS = {"ingress": "Ingress", "gateway": "HTTPRoute"}


@pytest.mark.parametrize(
    ("overlay", "component", "wanted"),
    [
        *((overlay, kind, "hone-server") for overlay in (DEMO, SERVING) for kind in KINDS),
        *((API, f"api-{kind}", "hone-api") for kind in KINDS),
    ],
)
def test_what_comes_from_outside_gets_to_its_service(overlay: str, component: str, wanted: str) -> None:
    source = upon(overlay, component)
    ((path, name, port),) = _ways(*of_kind(source, KINDS[component.removeprefix("api-")]))
    (service,) = (each for each in of_kind(source, "Service") if each["metadata"]["name"] == wanted)
    assert name == wanted
    assert {port} <= {each[key] for each in service["spec"]["ports"] for key in ("name", "port")}
    # Metrics and readiness are for the cluster.
    assert path == "/v1"


@pytest.mark.parametrize(
    ("overlay", "component", "name"),
    [
        *((DEMO, kind, "hone-server") for kind in KINDS),
        *((API, f"api-{kind}", "hone-api") for kind in KINDS),
    ],
)
def test_a_policy_that_is_there_is_opened_for_it_and_none_is_made(
    overlay: str, component: str, name: str
) -> None:
    assert of_kind(upon(overlay, component), "NetworkPolicy") == []
    source, before = upon(overlay, "network-policy", component), upon(overlay, "network-policy")
    inside, new = _policy(name, source)["ingress"]
    assert [inside] == _policy(name, before)["ingress"]
    (peer,) = new["from"]
    assert peer["namespaceSelector"]["matchLabels"].keys() == {"kubernetes.io/metadata.name"}
    assert new["ports"] == [{"port": "http"}]


INGRESSES = pytest.mark.parametrize("source", [upon(SERVING, "ingress"), upon(API, "api-ingress")])


@INGRESSES
def test_a_long_answer_is_not_cut_off_by_an_ingress(source: str) -> None:
    nginx = _nginx(source)
    assert nginx["proxy-buffering"] == "off"
    assert int(nginx["proxy-read-timeout"]) >= 3600


@pytest.mark.parametrize("source", [upon(SERVING, "gateway"), upon(API, "api-gateway")])
def test_a_long_answer_is_not_cut_off_by_a_gateway(source: str) -> None:
    (route,) = of_kind(source, "HTTPRoute")
    assert [rule["timeouts"] for rule in route["spec"]["rules"]] == [{"request": "0s"}]


def test_a_large_file_comes_through_to_the_api_as_it_is_sent() -> None:
    nginx = _nginx(upon(API, "api-ingress"))
    assert (nginx["proxy-body-size"], nginx["proxy-request-buffering"]) == ("0", "off")


@INGRESSES
def test_what_leaves_the_cluster_is_encrypted(source: str) -> None:
    (ingress,) = of_kind(source, "Ingress")
    hosts = {host for each in ingress["spec"]["tls"] for host in each["hosts"]}
    assert hosts == {rule["host"] for rule in ingress["spec"]["rules"]}


def _nginx(source: str) -> Object:
    (ingress,) = of_kind(source, "Ingress")
    return {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}


def _ways(outside: Object) -> list[tuple[str, str, str | int]]:
    """Path, Service and port of everything that it leads to."""
    rules = outside["spec"]["rules"]
    if outside["kind"] == "HTTPRoute":
        return [
            (match["path"]["value"], backend["name"], backend["port"])
            for rule in rules
            for match in rule["matches"]
            for backend in rule["backendRefs"]
        ]
    found = [(each["path"], each["backend"]["service"]) for rule in rules for each in rule["http"]["paths"]]
    return [(path, service["name"], next(iter(service["port"].values()))) for path, service in found]


# -- the namespace ---------------------------------------------------------------------------------


def test_the_namespace_is_held_to_what_the_pods_keep_to() -> None:
    (namespace,) = of_kind(upon(DEMO, "pod-security"), "Namespace")
    labels = namespace["metadata"]["labels"]
    modes = {name: labels[f"pod-security.kubernetes.io/{name}"] for name in ("enforce", "audit", "warn")}
    assert set(modes.values()) == {"restricted"}
    guide = (ROOT / "docs" / "run-on-kubernetes.md").read_text(encoding="utf-8")
    assert f"kubectl create namespace {namespace['metadata']['name']}\n" in guide
