"""Names of what the evaluation leaves in a run's folder; light, for whoever only reads them."""

from __future__ import annotations

DECISION_FILE = "decision.json"
PAGE_FILE = "decision.html"
BODY_FILE = "decision-body.html"
"""The page without its head, for the node's own frame."""
CARD_FILE = "model-card.md"
