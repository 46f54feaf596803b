"""Liveness, readiness and metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from dicom_node.errors import NodeError
from dicom_node.index import schema
from dicom_node.jobs.backlog import find_unclaimed_work
from dicom_node.retention.disk import disk_usage
from dicom_node.web.authentication import client_address, within
from dicom_node.web.metrics.core import NodeCollector
from dicom_node.web.routing import Call, Rule


def live(_call: Call) -> Response:
    """The process answers."""
    return JSONResponse({"status": "live"})


def ready(call: Call) -> Response:
    """Answer 200 where the index has the right schema, the disk has room, receivers listen and due work is claimed.

    Otherwise 503, saying what is not so.
    """
    node = call.node
    troubles = [f"start: {name} has not begun its work" for name in node.not_ready()]
    try:
        schema.require_current(node.database)
    except NodeError as error:
        troubles.append(f"index: {error}")
    try:
        with node.database.read() as session:
            troubles += [f"work: {waiting.sentence()}" for waiting in find_unclaimed_work(session)]
    except NodeError:
        pass  # said above
    try:
        usage = disk_usage(node)
        if usage.free_percent < node.settings.retention.emergency_free_percent:
            troubles.append(f"disk: {usage.free_percent:.1f} % free")
    except NodeError as error:
        troubles.append(f"disk: {error}")
    if troubles:
        knows_us = call.user is not None or within(client_address(call.request), node.settings.web.metrics_addresses)
        # What fails, and where the index is, is nothing for a stranger.
        return JSONResponse({"status": "not ready", **({"troubles": troubles} if knows_us else {})}, 503)
    return JSONResponse({"status": "ready"})


def metrics(call: Call) -> Response:
    """Prometheus text; for scrapers of metrics_addresses and for users that are logged in."""
    allowed = within(client_address(call.request), call.node.settings.web.metrics_addresses)
    if not allowed and call.user is None:
        raise HTTPException(401, "not from metrics_addresses and not logged in")
    registry = CollectorRegistry()
    registry.register(NodeCollector(call.node))
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


RULES = (
    Rule(path="/health/live", view=live, role=None),
    Rule(path="/health/ready", view=ready, role=None),
    Rule(path="/metrics", view=metrics, role=None),
)
