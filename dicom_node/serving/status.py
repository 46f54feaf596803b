"""The state of the models: checkpoints, who answers where, the journal; the same for the command line and the page."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.models import ModelEvent, ModelServing
from dicom_node.serving.promotion import ModelsError, champion
from dicom_node.system.process_identity import ProcessIdentity, machine, shown_name
from model.checkpoints import registry
from model.checkpoints.registry import ModelEntry
from model.errors import CheckpointError

ALIVE_SECONDS = 60.0
"""A worker whose row is older is not counted: it renews it four times as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The progress of a change of champion. workers: who answers with the new one; waiting: who does not yet."""

    workers: tuple[str, ...]
    waiting: tuple[str, ...]
    errors: tuple[str, ...]
    seconds: float


def forget_dead_workers(session: Session, *, own: str) -> None:
    """Delete the rows of worker processes of this machine that are gone, and the one of this name."""
    here = ModelServing.worker.startswith(f"{machine()}/", autoescape=True)
    names = list(session.scalars(select(ModelServing.worker).where(here)))
    gone = [name for name in names if _is_gone(name)]
    session.execute(delete(ModelServing).where(ModelServing.worker.in_([*gone, own])))


def _is_gone(worker: str) -> bool:
    process = ProcessIdentity.parse(worker)
    return process is not None and process.is_gone()


def model_lines(node: NodeContext, *, shadow: str = "") -> list[dict[str, Any]]:
    """Every checkpoint of the models folder, the configured model last."""
    serving = champion(node.models_dir)
    lines = [_line(entry, shadow=shadow) for entry in registry.list_models(node.models_dir)]
    settings = node.settings.model
    configured = {"folder": "", "name": settings.source, "version": "", "device_uid": "", "champion": serving == ""}
    return [*lines, configured | {"shadow": False, "problem": "", "bytes": None, "metrics": {}}]


def model_values(node: NodeContext, name: str) -> dict[str, Any]:
    """One checkpoint, verified file by file, with its manifest. Raises ModelsError for an unknown name."""
    try:
        entry = registry.show_model(node.models_dir, name)
    except CheckpointError as error:
        raise ModelsError(str(error)) from error
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


def serving_lines(session: Session, now: dt.datetime) -> list[dict[str, Any]]:
    """The model of each living worker. A worker that has had no study yet has loaded nothing and says nothing."""
    fresh = now - dt.timedelta(seconds=ALIVE_SECONDS)
    rows = session.scalars(select(ModelServing).where(ModelServing.seen_at >= fresh).order_by(ModelServing.worker))
    return [
        {
            "worker": shown_name(row.worker),
            "folder": row.folder,
            "wanted": row.wanted,
            "name": row.model_name,
            "version": row.model_version,
            "device_uid": row.device_uid,
            "since": row.since,
            "error": row.error,
        }
        for row in rows
    ]


def wait_for_effect(node: NodeContext, folder: str, *, seconds: float) -> Effect:
    """Wait until every living worker answers with `folder` ("": the configured model) or says why it cannot."""
    started = time.monotonic()
    while True:
        with node.database.read() as session:
            lines = serving_lines(session, node.clock())
        done = tuple(line["worker"] for line in lines if line["folder"] == folder and line["wanted"] == folder)
        errors = tuple(line["error"] for line in lines if line["wanted"] == folder and line["error"])
        waiting = tuple(line["worker"] for line in lines if line["worker"] not in done and not line["error"])
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
    """The folder of a checkpoint by its name. Raises ModelsError naming those that there are."""
    entry = next((e for e in registry.list_models(models_dir) if e.folder.name == name), None)
    if entry is None:
        known = ", ".join(e.folder.name for e in registry.list_models(models_dir)) or "none"
        raise ModelsError(f"there is no checkpoint {name!r} in {models_dir}; there are: {known}")
    return entry.folder
