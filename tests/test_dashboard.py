"""The dashboard and the alerting rules ask for series that there are."""

import asyncio
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
import pytest
import yaml

from tests.exposition import families, first_scrape

ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "deploy/grafana/lstm-serve.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""


class Exposed(NamedTuple):
    """What a running service exposes: the values of each series' labels, by its name; and the names of its metrics."""

    series: dict[str, dict[str, set[str]]]
    metrics: set[str]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    found = families(asyncio.run(first_scrape(tmp_path_factory.mktemp("store"))))
    series: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for sample in (sample for family in found for sample in family.samples):
        labels = series[sample.name]
        for name, value in sample.labels.items():
            labels[name].add(value)
    return Exposed(dict(series), {family.name for family in found})


def test_what_is_read_is_all_there_is() -> None:
    assert len(queries()) > 30
    assert len(PANELS) > 20
    assert len(RULES) > 4


def queries() -> list[str]:
    """Every expression of dashboard and rules, Grafana's variables replaced."""
    panels = [target["expr"] for panel in PANELS for target in panel["targets"]]
    variables = [split(variable)[0] for variable in variables_of("query")]
    return [
        re.sub(r"\[\$__rate_interval\]", "[5m]", query)
        for query in [*panels, *variables, *(rule["expr"] for rule in RULES)]
    ]


def variables_of(kind: str) -> list[dict[str, Any]]:
    return [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == kind]


def split(variable: dict[str, Any]) -> tuple[str, str]:
    """The series and the label whose values are the variable's."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert found, variable
    return found[1], found[2]


def nodes(query: promql.Expr) -> list[Any]:
    """Of the syntax tree."""
    found: list[Any] = []

    def visit(node: promql.Expr) -> bool:
        found.append(node)
        return True

    promql.walk(query, visit)
    return found


def selectors(query: promql.Expr) -> list[Any]:
    """What it asks for, with or without a range."""
    ranges = [node.vector_selector for node in nodes(query) if isinstance(node, promql.MatrixSelector)]
    return [*ranges, *(node for node in nodes(query) if isinstance(node, promql.VectorSelector))]


@pytest.mark.parametrize("query", queries())
def test_queries_ask_for_series_that_there_are(query: str, exposed: Exposed) -> None:
    parsed = promql.parse(query)
    assert selectors(parsed)
    for selector in selectors(parsed):
        assert selector.name in exposed.series
        labels = exposed.series[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in {*labels, *SCRAPED}, f"{selector.name} has no label {matcher.name}"
            if not matcher.value.startswith("$"):
                matching = [value for value in labels[matcher.name] if re.fullmatch(matcher.value, value)]
                assert matching, f"{matcher}: {selector.name} has no such value"
    for node in nodes(parsed):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            assert node.modifier.type == promql.AggModifierType.By
            check(node.modifier.labels, selectors(node.expr), exposed)
        if isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
            check(node.modifier.matching.labels, selectors(node), exposed)


def check(labels: list[str], asked: list[Any], exposed: Exposed) -> None:
    for selector in asked:
        assert set(labels) <= {*exposed.series[selector.name], *SCRAPED}, selector.name


def test_a_wrong_query_is_found(exposed: Exposed) -> None:
    for query in (
        "lstmserve_nothing_total",
        'lstmserve_requests_total{code="200"}',
        'lstmserve_requests_total{status="999"}',
        "sum by (model) (lstmserve_requests_total)",
        "lstmserve_labels_total / on (status) lstmserve_requests_total",
    ):
        with pytest.raises(AssertionError):
            test_queries_ask_for_series_that_there_are(query, exposed)
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql.parse("sum by (model (lstmserve_requests_total)")


def test_every_metric_is_on_the_dashboard(exposed: Exposed) -> None:
    text = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    shown = set(re.findall(r"\blstmserve_\w+", text))
    for metric in exposed.metrics:
        if metric.startswith("lstmserve_"):
            assert {metric, f"{metric}_total", f"{metric}_bucket", f"{metric}_sum"} & shown, metric


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in labels.split(", ")}
        assert named <= (grouped or SCRAPED), f"{target['legendFormat']}: the query leaves {grouped}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_variables(exposed: Exposed) -> None:
    (datasource,) = variables_of("datasource")
    assert (datasource["name"], datasource["query"]) == ("datasource", "prometheus")
    for variable in variables_of("query"):
        query, label = split(variable)
        (selector,) = selectors(promql.parse(query))
        assert label in {*exposed.series[selector.name], *SCRAPED}
    declared = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(DASHBOARD)))
    assert used == declared


def test_it_belongs_to_nobody() -> None:
    """No host, no account, no data source of the one who made it; nothing loaded from elsewhere."""
    assert not re.search(r"://|localhost|\d+\.\d+\.\d+\.\d+|@", json.dumps(DASHBOARD))
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"${datasource}"}
    assert DASHBOARD.get("id") is None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_rules(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert isinstance(promql.parse(rule["expr"]), promql.BinaryExpr), "a comparison"
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in labels.split(", ")}
    assert named <= (grouped or SCRAPED)
