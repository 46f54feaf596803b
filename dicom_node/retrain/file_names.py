"""Names of the files in a run's folder; light, for code that only reads them."""

from __future__ import annotations

DECISION_FILE = "decision.json"
PAGE_FILE = "decision.html"
BODY_FILE = "decision-body.html"
"""The page without its head, for the node's own frame."""
CARD_FILE = "model-card.md"
PROBE_FILE = "probe.json"
PROGRESS_FILE = "progress.json"
ERROR_FILE = "error.txt"
"""Why a stage failed, in words for the user."""
LOG_FILE = "child.log"
"""Standard output and error of the run's process."""
