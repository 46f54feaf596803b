"""The evaluation stage of a run: both checkpoints answer the frozen set and the known pairs, the gate decides."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dicom_node.retrain.file_names import BODY_FILE, CARD_FILE, DECISION_FILE, PAGE_FILE
from dicom_node.retrain.plan import Plan
from dicom_node.retrain.stages import StageProgress
from model.checkpoints.files import write_text_atomically
from model.checkpoints.manifest import Manifest, read_manifest
from model.predict import Predictor, load_predictor
from model.schema import ModelIdentity
from training.data.datasets import load_records, open_records, parse_spec
from training.evaluation.cached_predictor import CachedPredictor
from training.evaluation.evaluate import Evaluation, EvaluationOptions, evaluate
from training.evaluation.report import write_report
from training.gate.decision import Decision, GateSettings, decide
from training.gate.known_pairs import ask_known, known_answers
from training.gate.report import GateRun, body, card, page
from training.gate.scores import KnownPairs, frozen_questions, system_scores
from training.records.drops import DropReport
from training.records.record import Record


def judge(plan: Plan, between: Callable[[], None]) -> Decision:
    """Ask both systems and decide.

    Raises ModelError or DataError where a checkpoint or an image of the frozen set cannot be read.
    """
    sides = {"champion": plan.champion, "challenger": plan.models / plan.challenger}
    manifests = {name: read_manifest(folder) for name, folder in sides.items()}
    asked = {
        name: CachedPredictor(
            plan.folder / "answers" / f"{name}.jsonl",
            _identity(manifests[name]),
            partial(_load, folder, plan),
            between=between,
        )
        for name, folder in sides.items()
    }
    findings = manifests["challenger"].findings
    frozen = sum(1 for _ in _frozen(plan, findings, DropReport()))
    progress = StageProgress(plan.folder, "evaluating", 2 * frozen + plan.known_pairs)
    evaluations = {}
    for number, (name, system) in enumerate(asked.items()):
        report = DropReport()
        evaluations[name] = evaluate(
            system,
            load_records(_frozen(plan, findings, report), report),
            report,
            data=f"frozen set of snapshot {plan.snapshot_name}",
            options=EvaluationOptions(meteor=False),
            progress=progress.after(number * frozen),
        )
        write_report(evaluations[name], plan.folder / name, produced_at=_now())
    known = ask_known(
        known_answers(plan.known_pairs),
        asked["champion"],
        asked["challenger"],
        progress=lambda done: progress.at(2 * frozen + done),
    )
    progress.at(progress.total)
    return _decide(plan, manifests, evaluations, known)


def _decide(
    plan: Plan, manifests: dict[str, Manifest], evaluations: dict[str, Evaluation], known: KnownPairs
) -> Decision:
    challenger = evaluations["challenger"]
    decision = decide(
        frozen_questions(challenger.records),
        system_scores(evaluations["champion"]),
        system_scores(challenger),
        known,
        _gate_settings(plan.gate),
    )
    about = _about(plan, manifests, evaluations)
    write_text_atomically(plan.folder / PAGE_FILE, page(decision, about))
    write_text_atomically(plan.folder / BODY_FILE, body(decision, about))
    write_text_atomically(plan.folder / CARD_FILE, card(decision, about))
    values = {"decision": _finite(decision.as_json()), "card": CARD_FILE, "page": PAGE_FILE}
    # last: whoever finds it finds the others
    write_text_atomically(plan.folder / DECISION_FILE, json.dumps(values, indent=1, allow_nan=False) + "\n")
    return decision


def _about(plan: Plan, manifests: dict[str, Manifest], evaluations: dict[str, Evaluation]) -> GateRun:
    manifest = manifests["challenger"]
    losses, seconds = _losses(plan.training / "log.jsonl")
    run = plan.recipe["run"]
    facts = [
        ("training", f"{run['steps']} steps, tune {run.get('tune', 'full')}, {seconds:.0f} s of steps"),
        ("calibrated on", f"{manifest.calibrated_on} answers of the part that was held back"),
        ("findings", ", ".join(manifest.findings)),
    ]
    bins: dict[str, Any] = {}
    for name, evaluation in evaluations.items():
        bins[f"{name}, presence"] = evaluation.presence_reliability
        bins[f"{name}, change"] = evaluation.change_reliability
    return GateRun(
        run=plan.run,
        produced_at=_now(),
        champion=manifests["champion"].label,
        challenger=manifest.label,
        base=manifest.base,
        licence=manifest.licence,
        demonstration=manifest.demonstration,
        snapshot=manifest.data_snapshot,
        counts=plan.counts,
        facts=tuple(facts),
        losses=losses,
        reliability=bins,
    )


def _frozen(plan: Plan, findings: Sequence[str], report: DropReport) -> Iterator[Record]:
    """The evaluation set with the truths that the checkpoints may be asked for; other labels of the site wait."""
    for record in open_records(parse_spec(f"site:{plan.frozen}"), report):
        known = {key: truth for key, truth in record.truth.findings.items() if key in findings}
        if known:
            yield replace(record, truth=replace(record.truth, findings=known))
        else:
            report.drop("none of its labels is of a finding of the model", record.record_id)


def _load(folder: Path, plan: Plan) -> Predictor:
    predictor = load_predictor(folder, device=plan.device, experts=plan.experts)
    predictor.localiser = None  # regions are no part of what is compared, and cost as much as the answers
    return predictor


def _identity(manifest: Manifest) -> ModelIdentity:
    return ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        device_uid=manifest.device_uid,
        demonstration=manifest.demonstration,
        licence=manifest.licence,
    )


def _gate_settings(values: dict[str, float]) -> GateSettings:
    return GateSettings(
        least_patients=int(values["least_patients"]),
        margin=values["margin"],
        alpha=values["alpha"],
        calibration_margin=values["calibration_margin"],
        consistency_margin=values["consistency_margin"],
        consistency_floor=values["consistency_floor"],
    )


def _losses(log: Path) -> tuple[tuple[tuple[int, float], ...], float]:
    """(step, loss) of the training, and the seconds that its steps took; a step done twice counts as done last."""
    steps: dict[int, float] = {}
    seconds, before = 0.0, 0.0
    for line in log.read_text("utf-8").splitlines() if log.is_file() else []:
        try:
            entry = json.loads(line)
            steps[int(entry["step"])] = float(entry["loss"])
            now = float(entry["seconds"])
        except (ValueError, KeyError):
            continue  # the last line of a killed process
        # The log's clock begins anew with each process that went on with the training.
        seconds += now - before if now >= before else now
        before = now
    return tuple(sorted(steps.items())), seconds


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
