"""What the drill's steps for the api conclude of a cluster; with the mock's fiction, and without kubectl."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from drill_api import API_STEPS
from drill_api_plan import SETTINGS, write_api
from drill_plan import Images, Plan
from drill_record import Record, Step
from drill_steps import Drill
from kubectl import Kubectl, KubectlFailed, Object
from mock_api import KINDS, Api
from mock_life import PODS, Life
from mock_words import Troubles

from hone_api.settings import Settings

NAMESPACE = "hone-drill-test"
SERVICES = "v1/services"
_RESOURCES = {kind: resource for resource, (kind, _) in KINDS.items()}


@dataclass(frozen=True)
class Direct(Kubectl):
    """As much of kubectl as these steps need, in this process."""

    api: Api = field(kw_only=True)
    life: Life = field(kw_only=True)

    def run(self, *arguments: str, **_: Any) -> str:
        verb, name, *more = arguments
        if verb == "run":
            self.api.put(PODS, _pod(name, more))
            return ""
        if verb == "get":
            names = [each["metadata"]["name"] for each in self.api.all(SERVICES)]
            if name != "service" or more[0] not in names:
                raise KubectlFailed(arguments, "(NotFound)", 1)
            return more[0]
        pods = {each["metadata"]["name"]: each for each in self.api.all(PODS)}
        if verb == "logs":
            self.life.tick(self.api)
            return self.life.log(self.api, pods[name])
        assert (verb, name) == ("delete", "pod"), arguments
        for each in more[:-1]:
            self.api.remove(PODS, pods[each])
        return ""

    def items(self, *arguments: str) -> list[Object]:
        self.life.tick(self.api)
        kinds = ("PersistentVolumeClaim", "Job", "Deployment", "Pod") if "pods" in arguments[0] else ()
        return [each for kind in kinds for each in self.api.all(_RESOURCES[kind])]


def _pod(name: str, words: list[str]) -> Object:
    (overrides,) = (word for word in words if word.startswith("--overrides="))
    made: Object = json.loads(overrides.partition("=")[2])
    made["spec"]["containers"][0] |= {"image": "hone-chat", "command": words[words.index("--") + 1 :]}
    made["metadata"] |= {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", **made}


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """What the plan makes of k8s/."""
    folder = write_api(PLAN, tmp_path_factory.mktemp("api"))
    built = subprocess.run(["kubectl", "kustomize", str(folder)], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(built.stdout))


PLAN = Plan(NAMESPACE, Images.parse(""), timeout=60, patience=0, poll=0)
WAITS_IN_VAIN = {"cancel": "keeps_cancelled", "merged": "keeps_server"}
Steps = Callable[..., dict[str, Step]]


@pytest.fixture
def drilled(applied: list[Object], tmp_path: Path) -> Steps:
    """Runs all steps behind the first, with what goes wrong; how each came out."""

    def run(**troubles: Any) -> dict[str, Step]:
        life = Life(Troubles(**troubles))
        api = Api(life)
        for each in applied:
            api.put(_RESOURCES[each["kind"]], json.loads(json.dumps(each)))
        record = Record([Step(name) for name, *_ in API_STEPS])
        drill = Drill(PLAN, Direct(NAMESPACE, api=api, life=life), record, tmp_path)
        drill.watch.job("hone-base")
        for name, step, _ in API_STEPS[1:]:
            if name in WAITS_IN_VAIN and troubles.get(WAITS_IN_VAIN[name]):
                drill.watch.plan = replace(PLAN, timeout=1)
            with record.step(name) as noted:
                step(drill, noted)
            if noted.outcome == "FAILED":
                break
        return {step.name: step for step in record.steps[1:]}

    return run


def test_what_was_seen_is_recorded(drilled: Steps) -> None:
    steps = drilled()
    assert {step.outcome for step in steps.values()} == {"passed"}, steps
    assert "deleted after step 5, begun again, resumed from 10" in steps["retry"].told
    assert "ftjob-hone-tune-2-train-p-1 went on without it; by hone-api-p-2" in steps["restart"].told
    assert "3 of 3 answers" in steps["answer"].told
    assert "3 of 3 answers" in steps["merged"].told
    assert "its server model-ftjob-hone-merged was made, and is gone" in steps["merged"].told


# What is wrong; which step fails; what it says.
FAILURES: dict[str, tuple[Object, str, str]] = {
    "the job fails": ({"gives_up": True}, "retry", "the run was lost"),
    "it begins anew": ({"forgets_checkpoints": True}, "retry", "began anew, at step 0"),
    "another run beside it": ({"begins_twice": True}, "restart", "ftjob-hone-tune-3-train was begun beside"),
    "it learned nothing": ({"knows_nothing": True}, "answer", "0 of 3 answers"),
    "what was cancelled goes on": ({"keeps_cancelled": True}, "cancel", "no Job of ftjob-hone-second trains"),
    "no server is made": ({"makes_no_server": True}, "merged", "no deployment has the annotation"),
    "its server goes on": (
        {"keeps_server": True},
        "merged",
        "service model-ftjob-hone-merged are gone (the api",
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.chain] * ("goes on" in case)) for case in FAILURES]
)
def test_what_goes_wrong_fails_its_step(case: str, drilled: Steps) -> None:
    troubles, failing, said = FAILURES[case]
    steps = drilled(**troubles)
    assert [name for name, step in steps.items() if step.outcome == "FAILED"] == [failing]
    assert said in steps[failing].told


def test_all_that_has_a_volume_is_where_the_volume_is(applied: list[Object]) -> None:
    for each in applied:
        template = each.get("template") or each.get("spec", {}).get("template")
        if template:
            (term,) = template["spec"]["affinity"]["podAffinity"][
                "requiredDuringSchedulingIgnoredDuringExecution"
            ]
            name = template["metadata"]["labels"]["app.kubernetes.io/name"]
            assert name in term["labelSelector"]["matchExpressions"][0]["values"], each["metadata"]["name"]
    (claim,) = (each for each in applied if each["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_a_merged_model_has_a_server_as_its_base_has_one(applied: list[Object]) -> None:
    template, base = (
        _container(next(each for each in applied if (each["kind"], each["metadata"]["name"]) == wanted))
        for wanted in (("PodTemplate", "hone-model-server"), ("Deployment", "hone-server"))
    )
    for what in ("image", "resources"):
        assert template[what] == base[what]


def _container(each: Object) -> Object:
    template = each.get("template") or each["spec"]["template"]
    (container,) = template["spec"]["containers"]
    return dict(container)


def test_the_api_takes_its_settings_and_finds_them(applied: list[Object]) -> None:
    (made,) = (each for each in applied if each["kind"] == "ConfigMap")
    assert yaml.safe_load(made["data"]["hone-api.yaml"]) == SETTINGS
    assert Settings.model_validate(SETTINGS).launcher == "kubernetes"
    (api,) = (
        each for each in applied if each["metadata"]["name"] == "hone-api" and each["kind"] == "Deployment"
    )
    volumes = api["spec"]["template"]["spec"]["volumes"]
    assert {"name": "config", "configMap": {"name": made["metadata"]["name"]}} in volumes
