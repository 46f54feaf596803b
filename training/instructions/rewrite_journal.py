"""Journal of long answers: each batch is kept in a file beside the final one, from which a stopped run continues."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from training.instructions.rewrite import Rewritten, Writer, count, rewrite_batches, save_answers
from training.records.drops import DataError, DropReport


def rewrite_into(
    out: Path,
    sources: Iterable[tuple[str, str]],
    writer: Writer,
    report: DropReport,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Rewrite `sources` into the file `out` (`training.instructions.rewrite.save_answers`).

    Answers of an earlier run are taken from its journal and not asked for again.

    Raises
    ------
    DataError
        Where `out` is there already, or another writer began it.
    InferenceError
        Where the writer fails for good; what it had answered is kept.
    """
    if out.exists():
        raise DataError(f"{out} is there already; name another file, or remove it to start again")
    journal = journal_of(out)
    done = {outcome.record_id: outcome for outcome in _read(journal, writer.name)}
    for outcome in done.values():
        count(outcome, report)
    progress(len(done))
    left = ((record_id, source) for record_id, source in sources if record_id not in done)
    with journal.open("a", encoding="utf-8") as file:
        # The first line names the writer: answers of two writers must not end up in one file.
        if file.tell() == 0:
            _append(file.fileno(), [json.dumps({"writer": writer.name})])
        for batch in rewrite_batches(left, writer):
            _append(file.fileno(), [_line(outcome) for outcome in batch])
            for outcome in batch:
                count(outcome, report)
                done[outcome.record_id] = outcome
            progress(len(done))
    accepted = {outcome.record_id: outcome.text for outcome in done.values() if not outcome.fault}
    save_answers(out, accepted, writer=writer.name, report=report)
    journal.unlink()  # last: until the file is there, the answers are in the journal alone


def _line(outcome: Rewritten) -> str:
    return json.dumps({"id": outcome.record_id, "text": outcome.text, "fault": outcome.fault})


def journal_of(out: Path) -> Path:
    """The file that a stopped run leaves beside `out`."""
    return out.with_name(f"{out.name}.journal")


def _append(descriptor: int, lines: list[str]) -> None:
    os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
    os.fsync(descriptor)


def _read(journal: Path, writer: str) -> list[Rewritten]:
    """The outcomes in the journal; a last line that was cut off is cut away. Raises DataError for another writer's."""
    if not journal.exists():
        return []
    content = journal.read_bytes()
    # A line without its end was being written when the run stopped.
    whole = content[: content.rfind(b"\n") + 1]
    try:
        head, *rows = [json.loads(line) for line in whole.splitlines()] or [{"writer": writer}]
        begun_by = head["writer"]
        outcomes = [Rewritten(record_id=row["id"], text=row["text"], fault=row["fault"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{journal} is damaged; remove it to start again") from error
    if begun_by != writer:
        raise DataError(f"{journal} was begun by {begun_by}, not by {writer}; name another --out, or remove it")
    if len(whole) < len(content):
        os.truncate(journal, len(whole))
    return outcomes
