"""The alerts: promtool takes them, each is tested, explained, and the same for the operator."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from watching import MONITORING, ROOT, RULES, alerts, promtool
from write_rule import prometheus_rule

UNIT_TESTS = Path(__file__).with_name("rules_test.yaml")


def test_promtool_takes_the_rules_and_they_do_what_their_tests_say(prometheus: Path, tmp_path: Path) -> None:
    for file in (RULES, UNIT_TESTS):
        shutil.copyfile(file, tmp_path / file.name)
    promtool(prometheus, "check", "rules", RULES.name, cwd=tmp_path)
    promtool(prometheus, "test", "rules", UNIT_TESTS.name, cwd=tmp_path)


def test_a_rule_that_says_something_else_fails_its_test(prometheus: Path, tmp_path: Path) -> None:
    shutil.copyfile(UNIT_TESTS, tmp_path / UNIT_TESTS.name)
    text = RULES.read_text(encoding="utf-8")
    changed = text.replace("< 0.1", "< 0.01")
    assert changed != text
    (tmp_path / RULES.name).write_text(changed, encoding="utf-8")
    with pytest.raises(AssertionError, match="HoneStoreNearlyFull"):
        promtool(prometheus, "test", "rules", UNIT_TESTS.name, cwd=tmp_path)


def test_every_alert_is_seen_to_come_in_a_test() -> None:
    tests = yaml.safe_load(UNIT_TESTS.read_text(encoding="utf-8"))["tests"]
    coming = {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    assert coming == {rule["alert"] for rule in alerts()}


def test_every_alert_says_how_bad_it_is_and_the_page_what_to_do() -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(Hone\w+)` \|", page, re.MULTILINE)) == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_operators_rules_are_the_same() -> None:
    written = (MONITORING / "prometheus-rule.yaml").read_text(encoding="utf-8")
    assert written == prometheus_rule(), "run `make rules`"


def test_prometheus_takes_the_configuration_that_compose_mounts(prometheus: Path, tmp_path: Path) -> None:
    shutil.copyfile(RULES, tmp_path / "rules.yaml")
    key = tmp_path / "key"
    key.write_text("key")
    text = (ROOT / "observability" / "prometheus.yaml").read_text(encoding="utf-8")
    (tmp_path / "prometheus.yaml").write_text(text.replace("/keys/api-key", str(key)), encoding="utf-8")
    promtool(prometheus, "check", "config", "prometheus.yaml", cwd=tmp_path)


def test_prometheus_asks_what_compose_begins() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    jobs = yaml.safe_load((ROOT / "observability" / "prometheus.yaml").read_text())["scrape_configs"]
    always = {target for job in jobs for each in job.get("static_configs", []) for target in each["targets"]}
    asked = [each for job in jobs for each in job.get("dns_sd_configs", [])]
    sometimes = {f"{name}:{each['port']}" for each in asked for name in each["names"]}
    assert always == {"server:8000", "trainer:9100"}
    assert sometimes == {"base-server:8000", "api:8080"}
    # One that is not begun must not look like one that is down.
    with_profile = {target for target in always | sometimes if "profiles" in services[target.split(":")[0]]}
    assert with_profile == sometimes
