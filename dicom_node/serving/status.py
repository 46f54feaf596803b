"""The state of the models: checkpoints, who answers where, the journal; the same for the command line and the page."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.models import ModelEvent
from dicom_node.serving.promotion import UnknownModelError, champion, refusal
from dicom_node.serving.workers import serving_lines
from model.checkpoints import registry
from model.checkpoints.registry import ModelEntry
from model.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The progress of a change of champion. workers: who answers with the new one; waiting: who does not yet."""

    workers: tuple[str, ...]
    waiting: tuple[str, ...]
    errors: tuple[str, ...]
    seconds: float


def model_lines(node: NodeContext, *, shadow: str = "") -> list[dict[str, Any]]:
    """Every checkpoint of the models folder, the configured model last."""
    serving = champion(node.models_dir)
    lines = [_line(entry, shadow=shadow) for entry in registry.list_models(node.models_dir)]
    settings = node.settings.model
    configured = {"folder": "", "name": settings.source, "version": "", "device_uid": "", "champion": serving == ""}
    return [*lines, configured | {"shadow": False, "problem": "", "bytes": None, "metrics": {}}]


def model_values(node: NodeContext, name: str) -> dict[str, Any]:
    """One checkpoint, verified file by file, with its manifest. Raises UnknownModelError."""
    try:
        entry = registry.show_model(node.models_dir, name)
    except CheckpointError as error:
        raise refusal(error) from error
    values = _line(entry, shadow="")
    values.pop("shadow")
    if entry.manifest is not None:
        values["manifest"] = entry.manifest.model_dump(mode="json")
    with node.database.read() as session:
        values["history"] = [line for line in history_lines(session) if line["folder"] == name]
    return values


def history_lines(session: Session, limit: int = 200) -> list[dict[str, Any]]:
    """The journal, newest first."""
    rows = session.scalars(select(ModelEvent).order_by(ModelEvent.at.desc(), ModelEvent.id.desc()).limit(limit))
    return [
        {
            "at": row.at,
            "kind": row.kind.value,
            "folder": row.folder,
            "name": row.model_name,
            "version": row.model_version,
            "device_uid": row.device_uid,
            "who": row.who,
            "reason": row.reason,
        }
        for row in rows
    ]


def wait_for_effect(node: NodeContext, folder: str, *, seconds: float) -> Effect:
    """Wait until every living worker answers with `folder` ("": the configured model) or says why it cannot."""
    started = time.monotonic()
    while True:
        with node.database.read() as session:
            lines = serving_lines(session, node.clock())
        # Both: a worker that still answers with this folder but wants another one is on its way to it.
        done = tuple(line["worker"] for line in lines if line["folder"] == folder and line["wanted"] == folder)
        # One that says why it cannot is not waited for; what it says of another folder is an answer to an older wish.
        unable = [line for line in lines if line["wanted"] == folder and line["error"]]
        errors = tuple(line["error"] for line in unable)
        waiting = tuple(line["worker"] for line in lines if line["worker"] not in done and line not in unable)
        passed = time.monotonic() - started
        if not waiting or passed >= seconds:
            return Effect(workers=done, waiting=waiting, errors=errors, seconds=passed)
        time.sleep(0.05)


def _line(entry: ModelEntry, *, shadow: str) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "folder": entry.folder.name,
        "name": manifest.name if manifest else "",
        "version": manifest.version if manifest else "",
        "device_uid": manifest.device_uid if manifest else "",
        "champion": entry.champion,
        "shadow": bool(shadow) and entry.folder.name == shadow,
        "problem": entry.problem,
        "bytes": manifest.size if manifest else None,
        "metrics": figures(manifest.metrics) if manifest else {},
    }


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The main figures of a manifest's newest evaluation by name; empty where none was written."""
    numbers: dict[str, float] = {}
    for evaluation in metrics.values():
        values = evaluation.get("figures") if isinstance(evaluation, Mapping) else None
        for name, figure in (values or {}).items():
            # A figure stands with its interval and baselines, or as a bare number.
            value = figure.get("value") if isinstance(figure, Mapping) else figure
            if isinstance(value, int | float):
                numbers[str(name)] = float(value)
    return numbers


def figure_lines(metrics: Mapping[str, Any], only: Collection[str] = ()) -> list[str]:
    """The figures of a manifest's evaluations, each beside what the baselines have on the same pairs, where it says so.

    only: names of the figures; all where it is empty.
    """
    lines = []
    for data, evaluation in metrics.items():
        values = evaluation.get("figures") if isinstance(evaluation, Mapping) else None
        for name, figure in (values or {}).items():
            value = figure.get("value") if isinstance(figure, Mapping) else figure
            if not isinstance(value, int | float) or (only and name not in only):
                continue
            others = figure.get("baselines", {}) if isinstance(figure, Mapping) else {}
            beside = "".join(f"; {other} {known:.2f}" for other, known in others.items())
            of = f"{evaluation.get('pairs', '?')} pairs of {data}"
            lines.append(f"{name.replace('_', ' ')} {value:.2f}{beside} ({of})")
    return lines


def folder_of(models_dir: Path, name: str) -> Path:
    """The folder of a checkpoint by its name. Raises UnknownModelError naming those that there are."""
    entry = next((e for e in registry.list_models(models_dir) if e.folder.name == name), None)
    if entry is None:
        known = ", ".join(e.folder.name for e in registry.list_models(models_dir)) or "none"
        raise UnknownModelError(f"there is no checkpoint {name!r} in {models_dir}; there are: {known}")
    return entry.folder
