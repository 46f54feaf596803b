"""A destination that nothing reaches is told of after a quarter of an hour, not after the last of its attempts."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select, update

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Delivery, DeliveryState, Notice
from dicom_node.jobs.stalled_destinations import find_stalled
from dicom_node.runtime.ticks import tell_of_stalled_destinations
from tests.support.delivery_node import Clock, make_node, make_result, run_due


def sentences(node: NodeContext) -> list[str]:
    with node.database.read() as session:
        return [one.sentence() for one in find_stalled(session)]


def test_a_destination_that_is_down_is_named_until_something_arrives(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, {"name": "pacs", "port": 1})
    made_at = clock.now
    make_result(node)
    assert sentences(node) == [], "nothing was tried yet"
    run_due(node)
    clock.forward(minutes=14)
    assert sentences(node) == [], "a PACS that starts again"
    clock.forward(minutes=2)
    make_result(node)
    (said,) = sentences(node)
    assert said.startswith(f"nothing has reached pacs since {made_at:%Y-%m-%d %H:%M} UTC; 4 deliveries wait: ")
    for _ in range(2):
        tell_of_stalled_destinations(node)
    with node.database.write() as session:
        (notice,) = session.scalars(select(Notice).where(Notice.kind == "destination"))
        assert notice.text == said
        first = session.scalars(select(Delivery).order_by(Delivery.id)).first()
        assert first is not None
        first.state, first.stored_at = DeliveryState.CONFIRMED, clock.now
    assert sentences(node) == [], "it takes what it gets again"


def test_the_peers_own_words_stay_out_of_the_notice(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, {"name": "pacs", "port": 1})
    make_result(node)
    with node.database.write() as session:
        session.execute(update(Delivery).values(last_error="refused with C000H: no such patient Miller^Ann"))
    clock.forward(hours=1)
    (said,) = sentences(node)
    assert said.endswith("wait: refused with C000H")
