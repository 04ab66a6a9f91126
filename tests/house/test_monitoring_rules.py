"""Prometheus scrapes what runs, and every alert is a valid question about series the service has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from service.metrics import MULTIPROC_DIR, Metrics

OF_PROMETHEUS = {"up"}


def load(root: Path, name: str) -> dict[str, Any]:
    return yaml.safe_load((root / "deploy" / name).read_text())


def alerts(root: Path) -> list[dict[str, Any]]:
    return [rule for group in load(root, "alerts.yml")["groups"] for rule in group["rules"]]


def selectors(expression: Any) -> list[Any]:
    """The vector selectors anywhere in a parsed expression."""
    if isinstance(expression, promql.VectorSelector):
        return [expression]
    parts = [getattr(expression, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "vs")]
    parts += list(getattr(expression, "args", None) or [])
    return [found for part in parts if part is not None for found in selectors(part)]


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """Every series the service can have -> the labels it carries."""
    known: dict[str, set[str]] = {}
    for collector in vars(Metrics()).values():
        if not hasattr(collector, "describe") or not hasattr(collector, "_labelnames"):
            continue
        labels = set(collector._labelnames)
        for metric in collector.describe():
            name = metric.name
            known |= {name: labels, f"{name}_total": labels}
            known |= {f"{name}_count": labels, f"{name}_sum": labels, f"{name}_bucket": labels | {"le"}}
    return known


def test_prometheus_scrapes_the_api_and_the_worker(root: Path) -> None:
    compose = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    jobs = load(root, "prometheus.yml")["scrape_configs"]
    targets = [target for job in jobs for config in job["static_configs"] for target in config["targets"]]
    served = {
        f"api:{compose['api']['environment']['PORT']}",
        f"worker:{compose['worker']['environment']['METRICS_PORT']}",
    }
    assert set(targets) == served


def test_prometheus_finds_its_rules_and_compose_mounts_them(root: Path) -> None:
    mounted = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]["prometheus"]["volumes"]
    for name in load(root, "prometheus.yml")["rule_files"]:
        assert (root / "deploy" / name).is_file()
        assert f"./deploy/{name}:/etc/prometheus/{name}:ro" in mounted


def test_every_alert_asks_only_for_series_and_labels_that_exist(root: Path, series: dict[str, set[str]]) -> None:
    assert len(alerts(root)) >= 5
    for rule in alerts(root):
        found = selectors(promql.parse(rule["expr"]))
        assert found, rule["alert"]
        for selector in found:
            if selector.name in OF_PROMETHEUS:
                continue
            assert selector.name in series, f"{rule['alert']} asks for {selector.name}"
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked <= series[selector.name] | {"job", "instance"}, rule["alert"]


def test_every_alert_says_what_it_means_and_how_urgent_it_is(root: Path) -> None:
    names = [rule["alert"] for rule in alerts(root)]
    assert len(names) == len(set(names))
    for rule in alerts(root):
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "warning")


def test_of_every_alert_a_case_burns_and_one_does_not_in_the_words_of_its_rule(root: Path) -> None:
    """`promtool test rules` decides what is right; that nothing is left out of it is seen without it."""
    rules = {rule["alert"]: rule for rule in alerts(root)}
    cases = [case for group in load(root, "alerts.test.yml")["tests"] for case in group["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(rules)
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(rules)
    for case in cases:
        rule = rules[case["alertname"]]
        fixed = re.split(r"\{\{.*?\}\}", rule["annotations"]["summary"])
        for burning in case["exp_alerts"]:
            assert burning["exp_labels"]["severity"] == rule["labels"]["severity"]
            summary = burning["exp_annotations"]["summary"]
            assert re.fullmatch(".+".join(map(re.escape, fixed)), summary), summary
            assert "<no value>" not in summary


def test_the_cases_of_alerts_give_series_the_labels_they_have(root: Path, series: dict[str, set[str]]) -> None:
    groups = load(root, "alerts.test.yml")["tests"]
    given = {one["series"] for group in groups for one in group["input_series"]}
    assert len(given) > 20
    for text in given:
        (selector,) = selectors(promql.parse(text))
        labels = {matcher.name for matcher in selector.matchers.matchers}
        known = set[str]() if selector.name in OF_PROMETHEUS else series[selector.name]
        assert labels == known | {"job", "instance"}, text


def test_dead_letters_are_told_when_they_come_and_not_for_as_long_as_they_stay(root: Path) -> None:
    (rule,) = [rule for rule in alerts(root) if "booking_stream_dead" in rule["expr"]]
    parsed: Any = promql.parse(rule["expr"])
    compared = parsed.lhs.expr
    assert str(compared.op) == "-"
    assert [part.name for part in selectors(compared)] == ["booking_stream_dead"] * 2
    assert compared.rhs.func.name == "min_over_time"


def test_a_worker_that_never_looked_is_silent_too(root: Path, tmp_path: Path) -> None:
    """Several processes together show no time at which nobody looked, so the alert asks for that as well."""
    environment = {**os.environ, "PYTHONPATH": str(root), MULTIPROC_DIR: str(tmp_path)}
    ask = "from service.metrics import Metrics, exposition; print(exposition(Metrics()).decode())"
    ended = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    name = "booking_streams_seen_timestamp_seconds"
    assert f"# TYPE {name} gauge" in ended.stdout
    assert f"\n{name} " not in ended.stdout
    (rule,) = [rule for rule in alerts(root) if rule["alert"] == "WorkerSilent"]
    parsed: Any = promql.parse(rule["expr"])
    assert str(parsed.op) == "or"
    assert parsed.rhs.func.name == "absent"
    assert [part.name for part in selectors(parsed.rhs)] == [name]
