"""Prepared conversations on disk: what `dicom-node train prepare` writes and a recipe of kind "instructions" reads.

A folder with `conversations.jsonl`: a header line, then one line for each conversation (docs/training.md). Texts that
a language model wrote enter training this way, and so does anything that another program has prepared.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.questions.prompts import PromptLayout, Turn, render_question
from training.data.jsonl import Rows, RowWriter
from training.data.pictures import Pictures
from training.data.pools import Variation, show_pictures
from training.data.samples import Sample
from training.data.targets import unknown_targets
from training.instructions.coverage import note_taught
from training.instructions.streams import Conversation, Stream
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef

FORMAT, VERSION = "dicom-node-conversations", 1
FILE = "conversations.jsonl"
_PHANTOM = "phantom/"


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreparedTurn(_Line):
    """One question with its answer."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class Prepared(_Line):
    """One line. images: paths, relative to the folder of the file or absolute, oldest first; the last one is current.

    expert, context: texts of the prompt, as `model.experts.expert` and `model.questions.prompts.context_text` write
    them.
    """

    id: str = Field(min_length=1)
    stream: Stream = Stream.DIAGNOSTIC
    images: tuple[str, ...] = Field(min_length=1)
    expert: str | None = None
    context: str | None = None
    turns: tuple[PreparedTurn, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedIndex:
    """rows: lines of a folder as they were checked. members: stream → numbers of the rows, in order."""

    data: str
    rows: Rows
    members: dict[Stream, NDArray[np.int32]]
    report: dict[str, Any]

    def count_taught(self, streams: Iterable[Stream]) -> Counter[str]:
        """The questions that it teaches, see `training.instructions.coverage`; a prepared folder is taken whole."""
        return Counter(self.report["taught"])

    def lines(self) -> list[str]:
        """The report as text."""
        dropped: dict[str, int] = self.report["dropped"]
        lines = [f"{self.data}: {len(self.rows)} conversations; dropped {sum(dropped.values())}"]
        return lines + [f"  dropped {count}: {why}" for why, count in dropped.items()]


def write_prepared(folder: Path, made: Iterable[Conversation]) -> int:
    """Write conversations; returns how many. Raises DataError where the folder holds some already."""
    path = folder / FILE
    if path.exists():
        raise DataError(f"{path} is there already; remove it or write to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
        for conversation in made:
            file.write(_line(conversation).model_dump_json(exclude_none=True) + "\n")
            count += 1
    partial.replace(path)
    return count


def _line(conversation: Conversation) -> Prepared:
    images = (image.key for image in conversation.images)
    return Prepared(
        id=conversation.conversation_id,
        stream=conversation.stream,
        images=tuple(key if key.startswith(_PHANTOM) else str(Path(key).resolve()) for key in images),
        expert=conversation.layout.expert,
        context=conversation.layout.context,
        turns=tuple(PreparedTurn(question=t.question, answer=t.answer or "") for t in conversation.turns),
    )


def read_prepared(folder: Path, report: DropReport) -> Iterator[Prepared]:
    """The conversations of a folder, streaming; malformed lines and doubles are counted.

    Raises DataError for a missing, foreign, newer or cut-off file.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError(f"{folder} holds no {FILE}; dicom-node train prepare writes one")
    seen: set[int] = set()
    with path.open("r", encoding="utf-8") as file:
        _check_header(path, file.readline())
        for number, text in enumerate(file, start=2):
            if not text.endswith("\n"):
                raise DataError(f"{path.name} is cut off in line {number}")
            line = _check_line(text, number, report)
            if line is None:
                continue
            # Eight bytes instead of the name: millions of names would fill the memory.
            identity = int.from_bytes(hashlib.blake2b(line.id.encode(), digest_size=8).digest(), "big")
            if identity in seen:
                report.drop("duplicate conversation id", line.id)
                continue
            seen.add(identity)
            report.keep()
            yield line


def _check_line(text: str, number: int, report: DropReport) -> Prepared | None:
    try:
        line = Prepared.model_validate_json(text)
        for turn in line.turns:
            render_question(turn.question)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"]) or "JSON"
        report.drop(f"malformed line: {location}: {first['msg']}", f"line {number}")
        return None
    except ValueError as error:
        report.drop(f"malformed line: {error}", f"line {number}")
        return None
    return line


def _check_header(path: Path, text: str) -> None:
    try:
        header: Any = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} does not begin with a header line: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{path} holds no {FORMAT}")
    if header.get("version") != VERSION:
        raise DataError(f"{path} has version {header.get('version')}; this reader knows version {VERSION}")


def index_prepared(
    source: Path, work: Path, *, fresh: bool, progress: Callable[[int], None] = lambda done: None
) -> PreparedIndex:
    """The conversations of a folder as rows under `work`. Raises DataError where there is none to learn from."""
    name = hashlib.sha256(f"{FORMAT} {VERSION} {source.resolve()}".encode()).hexdigest()[:16]
    folder = work / name
    if fresh or not (folder / "about.json").is_file():
        _build(source, folder, progress)
    rows = Rows(folder / FILE)
    report: dict[str, Any] = json.loads((folder / "about.json").read_text("utf-8"))
    streams = np.load(folder / "streams.npy")
    members = {stream: np.flatnonzero(streams == bit).astype(np.int32) for bit, stream in enumerate(Stream)}
    return PreparedIndex(data=f"conversations:{source}", rows=rows, members=members, report=report)


def _build(source: Path, folder: Path, progress: Callable[[int], None]) -> None:
    report = DropReport()
    streams: list[int] = []
    taught: Counter[str] = Counter()
    with RowWriter(folder / FILE) as writer:
        for line in read_prepared(source, report):
            images = [key if key.startswith(_PHANTOM) else str(source / key) for key in line.images]
            writer.add(line.model_dump(mode="json", exclude_none=True) | {"images": images})
            streams.append(list(Stream).index(line.stream))
            note_taught(taught, (Turn(question=turn.question, answer=turn.answer) for turn in line.turns))
            if len(streams) % 20_000 == 0:
                progress(len(streams))
    if not streams:
        raise DataError(f"{source} gives nothing to train on:\n" + "\n".join(report.lines()))
    np.save(folder / "streams.npy", np.asarray(streams, np.uint8))
    # Last and by rename: the presence of about.json says that the whole index is there.
    partial = folder / "about.json.partial"
    partial.write_text(json.dumps(dict(report.as_json()) | {"taught": dict(taught)}, indent=1) + "\n", "utf-8")
    partial.replace(folder / "about.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedPool:
    """The prepared conversations of one stream. Their texts are shown as they stand; heads learn nothing from them."""

    name: str
    index: PreparedIndex
    stream: Stream
    variation: Variation
    pictures: Pictures
    turns: int

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.index.members[self.stream])

    def make(self, item: int, rng: Generator) -> Sample:
        """One conversation; more turns than wanted are thinned out, the order of the others stays."""
        line = Prepared.model_validate(self.index.rows[int(self.index.members[self.stream][item])])
        images = tuple(ImageRef(key=key, image_id=key.rpartition("/")[2]) for key in line.images)
        turns = tuple(Turn(question=turn.question, answer=turn.answer) for turn in line.turns)
        # Thinned at random, but in their order: a conversation may refer to what was said before.
        chosen = sorted(rng.permutation(len(turns))[: self.turns])
        findings = self.variation.findings
        pictures, _ = show_pictures(images, self.pictures, self.variation, rng)
        return Sample(
            images=pictures,
            layout=PromptLayout(priors=len(images) - 1, expert=line.expert, context=line.context),
            turns=tuple(turns[int(number)] for number in chosen) if self.variation.turns else (),
            targets=unknown_targets(findings) if findings else None,
            conversation=self.variation.conversation,
        )
