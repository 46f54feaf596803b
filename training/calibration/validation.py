"""A checkpoint's answers on its validation set, counted for its manifest; and the command that adds them afterwards.

python -m training.calibration.validation CHECKPOINT --data phantom:300@8000000
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from model.checkpoints.files import MANIFEST_NAME, write_text_atomically
from model.checkpoints.manifest import Manifest, read_manifest
from model.checkpoints.validation_counts import ValidationSet, bin_counts, edges_of, pair_certainty, pair_change
from model.engine.answers import ClosedAnswer, EngineJob
from model.errors import ModelError
from model.finding_answers import finding_answers
from model.finding_states import JointWeights, read_finding
from model.predict import Predictor, load_predictor
from model.schema import Finding, Presence, StudyPair
from training.data.datasets import load_records, open_records, parse_spec
from training.records.drops import DataError, DropReport
from training.records.record import Split

DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAnswers:
    """The closed answers to one pair as scored: question key → answer."""

    closed: Mapping[str, ClosedAnswer]
    with_prior: bool


def ask_closed_questions(predictor: Predictor, pair: StudyPair) -> PairAnswers:
    """Ask the closed questions on the findings of one pair, as serving asks them; nothing of the prognosis."""
    jobs = [job for job in predictor.jobs(pair) if job.layout.priors or pair.prior is None]
    closed: dict[str, ClosedAnswer] = {}
    for answers in predictor.engine.ask([_keep_closed(job) for job in jobs]):
        closed |= answers.closed
    return PairAnswers(closed=closed, with_prior=pair.prior is not None)


def _keep_closed(job: EngineJob) -> EngineJob:
    return dataclasses.replace(job, questions=tuple(q for q in job.questions if q.allowed is not None))


def count_answers(pairs: Iterable[PairAnswers], rules: Mapping[str, Any]) -> ValidationSet | None:
    """The answers, read by the values of a manifest; None where nobody was asked.

    rules: "calibration", "thresholds", "joint" and "certainty_floor" as the manifest has them.
    """
    present: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    pair_changes: Counter[str] = Counter()
    sure: list[float] = []
    abstained = priors = 0
    for pair in pairs:
        findings = _read(pair, rules)
        if not findings:
            continue
        for finding in findings:
            present[finding.key] += finding.presence is Presence.PRESENT
        changes.update(finding.change.value for finding in findings if finding.change is not None)
        abstained += any(finding.presence is Presence.ABSTAINED for finding in findings)
        sure.append(pair_certainty([finding.probability for finding in findings]))
        if pair.with_prior:
            priors += 1
            pair_changes[pair_change(finding.change for finding in findings)] += 1
    if not sure:
        return None
    # Rounded as the manifest stores them, and each once: equal edges would make an empty bin.
    edges = sorted({round(edge, DIGITS) for edge in edges_of(sure)})
    return ValidationSet(
        pairs=len(sure),
        with_prior=priors,
        present=dict(sorted(present.items())),
        abstained=abstained,
        changes=dict(sorted(changes.items())),
        pair_changes=dict(sorted(pair_changes.items())),
        certainty_edges=tuple(edges),
        certainty=tuple(bin_counts(sure, edges)),
    )


def _read(pair: PairAnswers, rules: Mapping[str, Any]) -> Sequence[Finding]:
    """Read the pair's findings as `Predictor.predict` does under these rules."""
    shares: dict[str, dict[str, Mapping[str, float]]] = defaultdict(dict)
    for key, answer in pair.closed.items():
        if answer.question.finding is not None:
            temperature = rules["calibration"].get(answer.question.type.value, 1.0)
            shares[answer.question.finding][key] = answer.probabilities(temperature)
    weights = JointWeights.from_values(rules["joint"])
    samples = []
    for finding, calibrated in shares.items():
        answers = finding_answers(finding, calibrated)
        if answers is not None:
            threshold = rules["thresholds"].get(finding, 0.5)
            floor = rules["certainty_floor"]
            samples.append(
                read_finding(
                    finding, answers, threshold=threshold, floor=floor, with_prior=pair.with_prior, weights=weights
                )
            )
    return samples


def reading_rules(manifest: Manifest) -> dict[str, Any]:
    """The values of a manifest that `count_answers` needs."""
    return {name: getattr(manifest, name) for name in ("calibration", "thresholds", "joint", "certainty_floor")}


def add_validation(folder: Path, found: ValidationSet) -> Manifest:
    """Put it into the manifest of a finished checkpoint; every other value and the Device UID stay as they stand.

    The stored text is kept and not written anew from its values, because a manifest of an earlier release lacks fields
    that would change the Device UID. Raises CheckpointError where the checkpoint does not pass verification.
    """
    before = read_manifest(folder)
    if set(found.present) != set(before.findings):
        raise DataError(f"{folder}: its findings are not those that were asked, {sorted(found.present)}")
    path = folder / MANIFEST_NAME
    stored = json.loads(path.read_text("utf-8")) | {"validation": found.model_dump(mode="json")}
    stored["device_uid"] = stored.pop("device_uid")  # it stands last
    manifest = Manifest.model_validate(stored)
    if manifest.model_copy(update={"validation": before.validation}) != before:
        raise DataError(f"{path}: would change more than the validation set")
    write_text_atomically(path, json.dumps(stored, indent=2, ensure_ascii=False) + "\n")
    return read_manifest(folder, verify=False)


def measure(folder: Path, data: str, *, split: Split | None = None, limit: int | None = None) -> ValidationSet:
    """Ask a finished checkpoint every pair of a data set of `training.data.datasets`. Raises DataError where it is
    empty."""
    predictor = load_predictor(folder)
    report = DropReport()
    items = load_records(open_records(parse_spec(data), report), report, split=split, limit=limit)
    counts = count_answers(
        (ask_closed_questions(predictor, pair) for _, pair in items), reading_rules(predictor.manifest)
    )
    if counts is None:
        raise DataError(f"{data} has no pair to ask")
    return counts


def main(
    checkpoint: Annotated[Path, typer.Argument(help="folder of a finished checkpoint")],
    data: Annotated[str, typer.Option(help="the data set that it was calibrated on, as in training.data.datasets")],
    split: Annotated[Split | None, typer.Option(help="only this split of it")] = None,
    limit: Annotated[int | None, typer.Option(help="only so many pairs")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of torch; 0: as it likes")] = 0,
) -> None:
    """Add to CHECKPOINT's manifest what it says of its validation set; its Device UID and all else stay."""
    if threads:
        torch.set_num_threads(threads)
    try:
        counts = measure(checkpoint, data, split=split, limit=limit)
        manifest = add_validation(checkpoint, counts)
    except (ModelError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(counts.model_dump_json(indent=2))
    print(f"{checkpoint / MANIFEST_NAME}: Device UID still {manifest.device_uid}")


if __name__ == "__main__":
    typer.run(main)
