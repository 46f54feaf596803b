"""The dashboard in docs asks only for metrics that there are, with labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dicom_node.index import counters as tally
from dicom_node.web.metrics import core as metrics
from tests.support.common import REPOSITORY
from tests.support.delivery_node import run_due
from tests.support.web_site import running_site

DASHBOARD = REPOSITORY / "docs" / "grafana-dashboard.json"
WANTED = {
    *("dicom_node_instances_received_total", "dicom_node_instances_refused_total"),
    *("dicom_node_associations_refused_total", "dicom_node_completion_lag_seconds", "dicom_node_prior_hit_ratio"),
    *("dicom_node_inference_seconds", "dicom_node_study_to_delivery_seconds", "dicom_node_jobs"),
    *("dicom_node_disk_bytes", "dicom_node_model_info", "dicom_node_abstained_ratio", "dicom_node_finding_ratio"),
    *("dicom_node_certainty_mean", "dicom_node_checkpoint_finding_ratio", "dicom_node_checkpoint_certainty_ratio"),
}
"""Rows that an administrator of the node must see; others may be shown too."""


def expressions() -> Iterator[str]:
    def walk(panels: list[dict[str, Any]]) -> Iterator[str]:
        for panel in panels:
            yield from walk(panel.get("panels", []))
            yield from (target["expr"] for target in panel.get("targets", []))

    yield from walk(json.loads(DASHBOARD.read_text("utf-8"))["panels"])


def test_every_panel_asks_for_what_there_is(tmp_path: Path) -> None:
    with running_site(tmp_path, {"name": "pacs", "port": 1}) as site, site.client() as client:
        with site.node.database.write() as session:
            for name in metrics.COUNTERS:
                tally.add(session, name, "example")
        run_due(site.node)
        families = text_string_to_metric_families(client.get("/metrics").text)
        described = {family.name: family for family in families}
        labels: dict[str, set[str]] = {}
        for family in described.values():
            labels.setdefault(family.name + ("_total" if family.type == "counter" else ""), set())
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    asked: set[str] = set()
    for expression in expressions():
        for name, chosen in re.findall(r"(dicom_node_\w+)(?:\{([^}]*)\})?", expression):
            asked.add(name)
            assert name in labels, f"{name} is in the dashboard and nowhere else: {expression}"
            for label in re.findall(r"(\w+)\s*[=!]~?", chosen):
                assert not labels[name] or label in labels[name], f"{name} has no label {label}"
    assert asked >= WANTED, f"missing on the dashboard: {sorted(WANTED - asked)}"


def test_live_figures_stand_beside_those_of_the_validation_set() -> None:
    for metric in ("dicom_node_checkpoint_finding_ratio", "dicom_node_checkpoint_certainty_ratio"):
        asked = {of for e in expressions() for of in re.findall(metric + r'\{of="(\w+)"\}', e)}
        assert asked == {"live", "validation"}, f"nothing to compare in {metric}"


def test_each_panel_has_a_place_of_its_own_and_a_title() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["title"] for panel in board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
