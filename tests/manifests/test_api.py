"""The api's parts fit: its settings, the templates of its stages, its base and who serves that."""

from pathlib import Path
from typing import get_args

import kubernetes_validate
import pytest
import yaml
from rendered import API, Object, containers, of_kind, pods, selects, upon

from hone_api.launcher.manifest import make_job, template_name
from hone_api.launcher.stages import Command
from hone_api.serving import deployment
from hone_api.settings import Settings, Stage, load_settings
from hone_contract.store import base_name

DATA = Path("/api-data")
QUEUE = "kueue.x-k8s.io/queue-name"


@pytest.mark.parametrize("stage", get_args(Stage))
def test_each_stage_has_a_template_of_which_a_good_job_is_made(stage: str) -> None:
    name = f"ftjob-1/1-{stage}"
    (template,) = (
        each for each in of_kind(API, "PodTemplate") if each["metadata"]["name"] == template_name(name)
    )
    sees = {"check": [DATA / "files" / "a"], "train": [DATA / "jobs" / "ftjob-1"]}.get(stage, [])
    job = make_job(name, Command(["x"], reads=sees), template, DATA)
    assert kubernetes_validate.validate(job, "1.29", strict=True) == "1.29"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shown = {each["mountPath"] for each in container["volumeMounts"]}
    # All that the api has of clients is never shown.
    assert str(DATA) not in shown and {str(each) for each in sees} <= shown
    assert ("/store" in shown) is (stage != "check")


def test_the_api_reads_what_its_stages_write() -> None:
    (api,) = (each for each in containers(API) if each.image == "hone-api")
    claims = _claims(api.pod)
    assert {path: claims.get(name) for path, name in api.mounts.items() if claims.get(name)} == {
        "/store": "hone-store",
        str(DATA): "hone-api-data",
    }
    for template in of_kind(API, "PodTemplate"):
        for name, claim in _claims(template["template"]["spec"]).items():
            assert claims[name] == claim
    assert {"name": "HONE_API_DATA", "value": str(DATA)} in api.spec["env"]


def test_the_account_of_the_api_has_its_rights() -> None:
    (binding,), (role,) = of_kind(API, "RoleBinding"), of_kind(API, "Role")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    (pod,) = (pod for where, _, pod in pods(API) if "Deployment hone-api" in where)
    (account,) = of_kind(API, "ServiceAccount")
    assert subject["name"] == account["metadata"]["name"] == pod["serviceAccountName"]
    # What it asks for is compared with them in services/api/tests/test_kubernetes.py.
    assert not {"*", "secrets", "pods/exec"} & {each for rule in role["rules"] for each in rule["resources"]}


def test_what_is_tuned_is_imported_and_served(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    assert settings.launcher == "kubernetes"
    (tunable,), (upstream,) = settings.models.values(), settings.servers
    (server,) = (each for each in containers(API) if each.serves and each.image == "hone-server")
    (wait,) = (each for each in containers(API) if each.spec["name"] == "wait")
    (job,) = of_kind(API, "Job")
    (imports,) = job["spec"]["template"]["spec"]["containers"]
    words: list[str] = server.spec["args"]
    assert tunable.base == upstream.base == words[words.index("--base") + 1] == imports["args"][1]
    assert wait.spec["command"][-1] == f"/store/bases/{base_name(tunable.base)}/manifest.json"
    (service,) = (each for each in of_kind(API, "Service") if each["metadata"]["name"] == "hone-server")
    assert upstream.url == f"http://hone-server:{service['spec']['ports'][0]['port']}"


def test_a_queue_is_asked_before_a_run_takes_a_gpu() -> None:
    source = upon(API, "kueue")
    queued = {
        each["metadata"]["name"] for each in of_kind(source, "PodTemplate") if QUEUE in str(each["metadata"])
    }
    asking = {
        each["metadata"]["name"] for each in of_kind(source, "PodTemplate") if "nvidia.com/gpu" in str(each)
    }
    assert queued == asking == {"hone-stage-train"}
    (queue,) = of_kind(source, "LocalQueue")
    assert queue["metadata"]["name"] in str(of_kind(source, "PodTemplate"))


def test_the_api_may_ask_servers_and_the_cluster_and_a_check_nobody() -> None:
    source = upon(API, "network-policy")
    labels = {where.partition(": ")[2]: metadata["labels"] for where, metadata, _ in pods(source)}
    assert _going_out(source, labels["PodTemplate hone-stage-check"]) == []
    ports = [
        port["port"] for rule in _going_out(source, labels["Deployment hone-api"]) for port in rule["ports"]
    ]
    assert sorted(map(str, ports)) == ["443", "53", "53", "6443", "http"]
    server = next(
        each["spec"] for each in of_kind(source, "NetworkPolicy") if each["metadata"]["name"] == "hone-server"
    )
    assert any(
        selects(peer["podSelector"], labels["Deployment hone-api"]) for peer in server["ingress"][0]["from"]
    )


def test_servers_of_merged_models_are_reached_and_go_before_training() -> None:
    source = upon(API, "model-servers", "network-policy", "priority")
    (template,) = (
        each for each in of_kind(source, "PodTemplate") if each["metadata"]["name"] == deployment.TEMPLATE
    )
    made = deployment.make_deployment("bot", template)
    assert kubernetes_validate.validate(made, "1.29", strict=True) == "1.29"
    labels = made["spec"]["template"]["metadata"]["labels"]
    # The Service of the base's server would hand them its requests.
    (service,) = (each for each in of_kind(source, "Service") if each["metadata"]["name"] == "hone-server")
    assert not service["spec"]["selector"].items() <= labels.items()
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(source, "NetworkPolicy")}
    for name in ("hone-deny", "hone-server", "hone-scraping"):
        assert selects(policies[name]["podSelector"], labels)
    assert _going_out(source, labels) == []
    for client in ("hone-api", "hone-chat"):
        to = [peer["podSelector"] for rule in policies[client]["egress"] for peer in rule.get("to", [])]
        assert any(selects(selector, labels) for selector in to)
    classes = {
        each["metadata"]["name"]: each["template"]["spec"]["priorityClassName"]
        for each in of_kind(source, "PodTemplate")
    }
    assert classes.pop(deployment.TEMPLATE) == "hone-serving"
    assert set(classes.values()) == {"hone-training"}


def test_the_api_alone_may_make_them() -> None:
    (binding,) = (
        each
        for each in of_kind(upon(API, "model-servers"), "RoleBinding")
        if each["metadata"]["name"] == "hone-model-servers"
    )
    (account,) = of_kind(API, "ServiceAccount")
    (subject,) = binding["subjects"]
    assert subject["name"] == account["metadata"]["name"]
    # What it asks for is compared with the Role in services/api/tests/test_model_servers.py.
    assert binding["roleRef"]["name"] == "hone-model-servers"


def _going_out(source: str, labels: Object) -> list[Object]:
    return [
        rule
        for each in of_kind(source, "NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels)
        for rule in each["spec"].get("egress", [])
    ]


def _settings(folder: Path) -> Settings:
    (found,) = (each for each in of_kind(API, "ConfigMap") if "hone-api.yaml" in each["data"])
    (folder / "hone-api.yaml").write_text(found["data"]["hone-api.yaml"], encoding="utf-8")
    assert yaml.safe_load(found["data"]["hone-api.yaml"])
    return load_settings(folder / "hone-api.yaml", {})


def _claims(pod: Object) -> dict[str, str]:
    """By volume."""
    return {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in pod["volumes"]
        if "persistentVolumeClaim" in each
    }
