"""The keys of a run's jobs: one for each dispatch of a range or a study."""

from __future__ import annotations

from dicom_node.index.tables.backfill import BackfillItem, BackfillRange


def item_key(item: BackfillItem) -> str:
    """The key of the job of an item's present dispatch."""
    return f"backfill:item:{item.id}:{item.dispatches}"


def range_key(part: BackfillRange) -> str:
    """The key of the job of a range's present dispatch."""
    return f"backfill:range:{part.id}:{part.dispatches}"
