"""`train expert` and `evaluate` as work over all cores or a cluster (`dicom_node.bulk`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dicom_node.bulk.run import ShardSizes
from dicom_node.bulk.work import BulkError, Work
from model.errors import CheckpointError, PixelError

if TYPE_CHECKING:  # torch is imported where the work is done
    from pydantic import TypeAdapter

    from model.schema import ModelIdentity, StudyPair
    from training.data.expert_table import ExpertImage
    from training.evaluation.evaluate import AskedRecord, EvaluationOptions
    from training.records.record import ImageRef, Record

EXPERT_CUT: Final = ShardSizes(batch=16, shard=64)
EVALUATE_CUT: Final = ShardSizes(batch=4, shard=8)
ITEM_SECONDS: Final = 600.0
Line = dict[str, Any]
"""One outcome: plain values of JSON."""


def encode_lines(lines: Sequence[Line]) -> bytes:
    """One JSON value a line."""
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def read_lines(paths: Sequence[Path]) -> list[Line]:
    """Read the lines of all shards, in order."""
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertWork(Work["ImageRef", "list[ExpertImage]", Line]):
    """Asks the expert of a folder about images."""

    expert: Path

    def open_reader(self) -> Callable[[Sequence[ImageRef]], list[ExpertImage]]:
        """Make what decodes images."""
        from training.data.expert_table import read_expert_images

        return read_expert_images

    def open_answerer(self) -> Callable[[list[ExpertImage]], list[Line]]:
        """Make what asks about a batch of images."""
        import torch

        from model.experts.expert import load_expert
        from training.data.expert_table import ask_expert

        torch.set_num_threads(1)
        try:
            expert = load_expert(self.expert)
        except CheckpointError as error:
            raise BulkError(str(error)) from error
        return lambda images: [
            {"image_id": row.image_id, "shares": row.shares, "fault": row.fault} for row in ask_expert(expert, images)
        ]

    def lost(self, item: ImageRef, why: str) -> list[Line]:
        """Make the line of an image at which the process died."""
        return [{"image_id": item.image_id, "shares": (), "fault": f"image cannot be decoded: {why}"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateWork(Work["Record", "list[tuple[Record, StudyPair | str]]", Line]):
    """Asks a checkpoint about records. most: images of one record. lumen: ask LUMEN's questions too."""

    model: str
    device: str
    findings: tuple[str, ...]
    options: EvaluationOptions
    most: int
    lumen: bool

    def open_reader(self) -> Callable[[Sequence[Record]], list[tuple[Record, StudyPair | str]]]:
        """Make what decodes the images of records."""
        from training.data.datasets import load_pair

        def read(records: Sequence[Record]) -> list[tuple[Record, StudyPair | str]]:
            pairs: list[tuple[Record, StudyPair | str]] = []
            for record in records:
                try:
                    pairs.append((record, load_pair(record, most=self.most)))
                except PixelError as error:
                    pairs.append((record, f"image cannot be decoded: {error}"))
                except ValueError as error:
                    pairs.append((record, str(error)))
            return pairs

        return read

    def open_answerer(self) -> Callable[[list[tuple[Record, StudyPair | str]]], list[Line]]:
        """Make what asks everything about a record."""
        import torch

        from model.predict import load_predictor
        from training.evaluation.evaluate import ask_record
        from training.evaluation.texts import make_published_asker, with_lumen_questions

        if not self.device.startswith("cuda"):
            torch.set_num_threads(1)
        try:
            predictor = load_predictor(self.model, device=self.device, findings=self.findings)
        except CheckpointError as error:
            raise BulkError(str(error)) from error
        ask = make_published_asker(predictor)
        model = identities().dump_python(predictor.identity, mode="json")

        def line(record: Record, pair: StudyPair | str) -> Line:
            if isinstance(pair, str):
                return {"record": record.record_id, "fault": pair}
            asked = with_lumen_questions(record, predictor.findings) if self.lumen else record
            answered = ask_record(predictor, asked, pair, self.options, ask)
            values = answers().dump_python(answered, mode="json")
            return {"record": record.record_id, "model": model, "findings": predictor.findings, "said": values}

        return lambda read: [line(record, pair) for record, pair in read]

    def lost(self, item: Record, why: str) -> list[Line]:
        """Make the line of a record at which the process died."""
        return [{"record": item.record_id, "fault": f"it could not be asked: {why}"}]


@cache
def answers() -> TypeAdapter[AskedRecord]:
    """The adapter that reads and writes what was said of a record."""
    from pydantic import TypeAdapter

    from training.evaluation.evaluate import AskedRecord

    return TypeAdapter(AskedRecord)


def record_of_line(line: Line) -> AskedRecord:
    """Read the answers on a record from its line."""
    return answers().validate_python(line["said"])


@cache
def identities() -> TypeAdapter[ModelIdentity]:
    """The adapter that reads and writes who answered."""
    from pydantic import TypeAdapter

    from model.schema import ModelIdentity

    return TypeAdapter(ModelIdentity)
