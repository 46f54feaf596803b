"""A data set asked over all cores or a cluster, resumable, and scored when all is said (`evaluate`)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.bulk.mappers import Placement, open_mapper
from dicom_node.bulk.run import run_shards
from dicom_node.bulk.shards import ShardFolder, digest_of
from dicom_node.bulk.work import BulkError
from dicom_node.cli.training.bulk_work import (
    EVALUATE_CUT,
    ITEM_SECONDS,
    EvaluateWork,
    Line,
    encode_lines,
    identities,
    read_lines,
    record_of_line,
)
from model.checkpoints.files import sha256_of
from model.checkpoints.registry import MANIFEST_NAME, read_manifest, resolve_source
from model.schema import MAX_IMAGES
from training.records.drops import DropReport
from training.records.record import Record

if TYPE_CHECKING:
    from training.evaluation.cases import Case
    from training.evaluation.evaluate import AskedRecord, Evaluation, EvaluationOptions
    from training.metrics.baselines import MajorityFindings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRun:
    """The model and the questions of one run, and where it is done.

    data: the set in words. findings: of a checkpoint without a manifest.
    """

    model: str
    device: str
    findings: tuple[str, ...]
    options: EvaluationOptions
    lumen: bool
    data: str
    placement: Placement

    @property
    def most_images(self) -> int:
        """Images of one record that are shown."""
        return MAX_IMAGES if self.options.prognosis else 2

    def facts(self, records: Sequence[Record]) -> dict[str, str]:
        """The facts by which two runs are the same."""
        folder = Path(resolve_source(self.model))
        stamp = sha256_of(folder / MANIFEST_NAME) if (folder / MANIFEST_NAME).is_file() else ""
        return {
            "data": self.data,
            "records": digest_of(f"{record.record_id} {[image.key for image in record.images]}" for record in records),
            "model": f"{folder} {stamp}".strip(),
            "options": f"{self.options} {self.findings} lumen={self.lumen}",
        }


def ask_all(
    run: EvaluationRun,
    records: Sequence[Record],
    folder: Path,
    report: DropReport,
    *,
    baseline: MajorityFindings | None,
    progress: Callable[[int, int], None],
) -> Evaluation | None:
    """Ask about every record in shards below `folder`, and score; None where no record could be asked.

    Raises BulkError where it cannot go on; the same call goes on from the finished shards. Shards of another run lie
    beside these and are left alone.
    """
    from training.evaluation.evaluate import score_asked
    from training.evaluation.texts import with_lumen_questions

    paths = _ask_in_shards(run, records, folder, progress)
    asked: list[tuple[Record, AskedRecord]] = []
    model: Line | None = None
    for record, line in zip(records, read_lines(paths), strict=True):
        if "said" not in line:
            report.drop(line["fault"], record.record_id)
            continue
        model = line["model"]
        asked.append((with_lumen_questions(record, line["findings"]) if run.lumen else record, record_of_line(line)))
    if model is None:
        return None
    identity = identities().validate_python(model)
    cases = _worst_cases(run, asked)
    return score_asked(asked, identity, report, data=run.data, options=run.options, baseline=baseline, cases=cases)


def _ask_in_shards(
    run: EvaluationRun, records: Sequence[Record], folder: Path, progress: Callable[[int, int], None]
) -> list[Path]:
    """Make the shards of this run that are missing; return the paths of all. Raises BulkError saying how to go on."""
    work = EvaluateWork(
        model=run.model,
        device=run.device,
        findings=run.findings,
        options=run.options,
        most=run.most_images,
        lumen=run.lumen,
    )
    shards = shards_of(run, records, folder)
    try:
        with open_mapper(
            run.placement,
            batches=EVALUATE_CUT.count_batches(len(records)),
            item_seconds=ITEM_SECONDS,
            is_on_gpu=run.device.startswith("cuda"),
            weights=Path(resolve_source(run.model)),
        ) as mapper:
            paths, _ = run_shards(
                work, records, shards, mapper, cut=EVALUATE_CUT, encode=encode_lines, progress=progress
            )
    except BulkError as error:
        raise BulkError(
            f"{error}\nThe answers so far are kept in {shards.folder}; the same command continues from them"
        ) from error
    return paths


def shards_of(run: EvaluationRun, records: Sequence[Record], folder: Path) -> ShardFolder:
    """The folder of this run's answers: named by its facts, so that what another run left there blocks none."""
    facts = run.facts(records)
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return ShardFolder(folder=folder / name, suffix=".jsonl", facts=facts)


def forget_answers(run: EvaluationRun, records: Sequence[Record], folder: Path) -> None:
    """Remove the answers of a run whose report is written; those of an unfinished one beside it stay."""
    shutil.rmtree(shards_of(run, records, folder).folder, ignore_errors=True)
    with suppress(OSError):  # another run's are in it
        folder.rmdir()


def with_zero_shot(
    result: Evaluation,
    run: EvaluationRun,
    source: str,
    records: Sequence[Record],
    folder: Path,
    *,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Add a model that was not tuned to the task as one more baseline: what a base model says without any training.

    It is asked once about each pair, and about the findings of the evaluated checkpoint unless a manifest of its own
    says otherwise; one that answered fewer pairs stands there with their number. Raises BulkError.
    """
    from training.evaluation.evaluate import ZERO_SHOT

    other = ask_all(zero_shot_run(run, source), records, folder, DropReport(), baseline=None, progress=progress)
    if other is None or other.scores is None:
        raise BulkError(f"{source} answers no pair of {run.data}")
    name = f"{ZERO_SHOT}: {other.model.name}"
    if result.scores is None or other.scores.pairs != result.scores.pairs:
        name += f" ({other.scores.pairs} pairs)"
    return replace(result, baselines=result.baselines | {name: other.scores})


def zero_shot_run(run: EvaluationRun, source: str) -> EvaluationRun:
    """The run of `with_zero_shot`: each pair once, by another model, about the same findings."""
    return replace(
        run,
        model=source,
        findings=run.findings or _findings_of(run.model),
        options=replace(run.options, consistency=False, prognosis=False, worst=0),
        lumen=False,
    )


def _findings_of(model: str) -> tuple[str, ...]:
    """The findings that a checkpoint with a manifest may be asked."""
    folder = Path(resolve_source(model))
    return tuple(read_manifest(folder, verify=False).findings) if (folder / MANIFEST_NAME).is_file() else ()


def _worst_cases(run: EvaluationRun, asked: Sequence[tuple[Record, AskedRecord]]) -> list[Case]:
    """The worst answers with their images, which are decoded once more."""
    from training.data.datasets import load_pair
    from training.evaluation.cases import case_of, loss_of

    worst = sorted(asked, key=lambda item: -loss_of(item[1].answer))[: run.options.worst]
    return [case_of(replies.answer, load_pair(record, most=run.most_images)) for record, replies in worst]
