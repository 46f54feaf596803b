"""A data set gone through once: its records as rows on disk, which streams each can teach, and what was left out.

The index lives in the run's folder. A run that goes on after a kill uses the one it has, so that the same number still
names the same sample, whatever has become of the set's tables meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.ontology import ontology
from training.data.datasets import open_records, parse_spec
from training.data.jsonl import Rows, RowWriter
from training.data.record_rows import record_to_row
from training.instructions.coverage import note_taught
from training.instructions.rewrite import load_answers
from training.instructions.streams import InstructionOptions, Stream, conversations
from training.readers.splits import keep_patients_apart
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split

FORMAT = 3
PHANTOMS = frozenset({"phantom", "phantom-course", "phantom-cache"})
STREAMS = tuple(Stream)
"""Bit n of a record's mask stands for STREAMS[n]."""
ROWS, MASKS, ABOUT = "records.jsonl", "streams.npy", "about.json"
_SAY_EVERY = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSpec:
    """One data set of a recipe. data: as `training.data.datasets` names it. split: None for all but fixtures.

    salt: of a patient-disjoint split in place of the set's own; "" keeps its own. long_answers: file of
    `training.instructions.rewrite`, "" for none. limit: at most so many records.
    """

    data: str
    split: Split | None = Split.TRAIN
    salt: str = ""
    long_answers: str = ""
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SetIndex:
    """rows: of `record_rows`. members: stream → numbers of the rows that can teach it, int32, in order.

    findings: ontology keys that some record knows anything of. report: what was kept and dropped and why.
    """

    data: str
    rows: Rows
    members: Mapping[Stream, NDArray[np.int32]]
    findings: tuple[str, ...]
    report: Mapping[str, Any]

    def count_taught(self, streams: Iterable[Stream]) -> Counter[str]:
        """The questions that these streams teach, see `training.instructions.coverage`."""
        total: Counter[str] = Counter()
        for stream in streams:
            total.update(self.report["taught"].get(stream.value, {}))
        return total

    def lines(self) -> list[str]:
        """The report as text."""
        about = self.report
        dropped: Mapping[str, int] = about["dropped"]
        lines = [f"{self.data}: {len(self.rows)} records; dropped {sum(dropped.values())}"]
        lines += [
            f"  dropped {count}: {why} (for example {', '.join(about['examples'].get(why, []))})"
            for why, count in dropped.items()
        ]
        lines += [f"  noted {count}: {what}" for what, count in about["notes"].items()]
        streams = ", ".join(f"{stream.value} {len(rows)}" for stream, rows in self.members.items() if len(rows))
        return [*lines, f"  can teach: {streams or 'nothing'}"]


def set_index(
    spec: SetSpec,
    options: InstructionOptions,
    work: Path,
    *,
    fresh: bool,
    progress: Callable[[int], None] = lambda done: None,
) -> SetIndex:
    """The index of a set under `work`, made where it is not there or where `fresh` is asked for.

    Raises DataError where the set cannot be read or gives nothing to train on.
    """
    folder = work / _key(spec, options)
    if fresh or not (folder / ABOUT).is_file():
        _build(spec, options, folder, progress)
    return _open(spec, folder)


def _key(spec: SetSpec, options: InstructionOptions) -> str:
    """Names the folder: whatever decides which records there are and what each can teach."""
    deciding = {
        "format": FORMAT,
        "spec": asdict(spec),
        "closed": options.closed,
        "lumen": options.lumen,
        "difference": options.asks_difference,
        "prediction": options.prediction_inputs.value,
        "images": options.max_images,
        "rules": options.rule_answers,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def _build(spec: SetSpec, options: InstructionOptions, folder: Path, progress: Callable[[int], None]) -> None:
    report, not_asked = DropReport(), DropReport()
    answers = load_answers(Path(spec.long_answers)) if spec.long_answers else {}
    everything = _of_all_streams(options)
    masks: list[int] = []
    known: Counter[str] = Counter()
    taught: dict[Stream, Counter[str]] = {stream: Counter() for stream in Stream}
    rng = np.random.default_rng(0)  # which turns are possible is asked here, not which are chosen
    with RowWriter(folder / ROWS) as writer:
        for record in _read_records(spec, report):
            asked = list(conversations(record, everything, rng, not_asked, long_answers=answers))
            mask = sum({1 << STREAMS.index(conversation.stream) for conversation in asked})
            for conversation in asked:
                note_taught(taught[conversation.stream], conversation.turns)
            if not mask:
                report.drop("nothing to ask: no published question and no label", record.record_id)
                continue
            writer.add(record_to_row(record))
            masks.append(mask)
            known.update(list(record.truth.findings))
            if len(masks) % _SAY_EVERY == 0:
                progress(len(masks))
    if not masks:
        raise DataError(f"{spec.data} gives nothing to train on:\n" + "\n".join(report.lines()))
    np.save(folder / MASKS, np.asarray(masks, np.uint8))
    unused = set(answers) and not any(mask >> STREAMS.index(Stream.LONG) & 1 for mask in masks)
    if unused:
        raise DataError(f"{spec.long_answers}: none of its {len(answers)} answers belongs to a record of {spec.data}")
    about = {
        "format": FORMAT,
        "records": len(masks),
        "findings": dict(known),
        "taught": {stream.value: dict(counts) for stream, counts in taught.items()},
        "dropped": dict(report.dropped),
        "notes": dict(report.notes) | {f"not asked: {why}": count for why, count in not_asked.dropped.items()},
        "examples": report.examples,
    }
    _write_about(folder, about)


def _of_all_streams(options: InstructionOptions) -> InstructionOptions:
    """The options that decide the index: of all streams, so that a change of their shares needs no new index."""
    return InstructionOptions(
        streams=frozenset(Stream),
        closed=options.closed,
        lumen=options.lumen,
        difference=options.difference,
        prediction_inputs=options.prediction_inputs,
        max_images=options.max_images,
        rule_answers=options.rule_answers,
    )


def _write_about(folder: Path, about: Mapping[str, object]) -> None:
    # This file last: a folder without it is unfinished and is built again.
    partial = folder / f"{ABOUT}.partial"
    partial.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    partial.replace(folder / ABOUT)


def _read_records(spec: SetSpec, report: DropReport) -> Iterator[Record]:
    """The records of the wanted split, each id once; what is left out on purpose is noted, not dropped."""
    named = parse_spec(spec.data)
    records = open_records(named, report)
    if spec.salt:
        records = keep_patients_apart(records, salt=spec.salt)
    seen: set[int] = set()  # hashes: eight bytes and the set's own, not the text of 300,000 ids
    kept = 0
    for record in records:
        # Phantoms are nobody's: the seeds that they are named by say what they may be used for.
        if named.kind not in PHANTOMS and (
            record.split is Split.FIXTURE or (spec.split is not None and record.split is not spec.split)
        ):
            report.note(f"split {record.split.value}: not wanted here")
            continue
        identity = int.from_bytes(hashlib.blake2b(record.record_id.encode(), digest_size=8).digest(), "big")
        if identity in seen:
            report.drop("duplicate record id", record.record_id)
            continue
        seen.add(identity)
        if spec.limit is not None and kept >= spec.limit:
            return
        kept += 1
        yield record


def _open(spec: SetSpec, folder: Path) -> SetIndex:
    rows = Rows(folder / ROWS)
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        masks: NDArray[np.uint8] = np.load(folder / MASKS)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a readable index ({error}); remove it and it is built again") from error
    if about.get("format") != FORMAT or not len(masks) == len(rows) == about["records"]:
        raise DataError(f"{folder}: an index of another format or cut off; remove it and it is built again")
    # Each record has one byte of bits, a bit for each stream that it can give samples to.
    members = {stream: np.flatnonzero(masks >> bit & 1).astype(np.int32) for bit, stream in enumerate(STREAMS)}
    findings = tuple(key for key in ontology().findings if key in about["findings"])
    return SetIndex(data=spec.data, rows=rows, members=members, findings=findings, report=about)


def union(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All findings of several sets, in ontology order."""
    named = {key for group in groups for key in group}
    return tuple(key for key in ontology().findings if key in named)
