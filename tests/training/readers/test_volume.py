"""Medical-Diff-VQA at its published size: 700,703 questions with 164,324 pairs read within 2 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.published import VQA_HEADER, mimic_studies, vqa_questions, vqa_studies_table, write_csv

QUESTIONS, PAIRS = 700_703, 164_324
LIMIT_BYTES = 2 * 1000**3

_READ = """
import json, sys, time
from functools import partial
from pathlib import Path
from benchmarks.memory import own_peak_bytes
from training.records.drops import DropReport
from training.instructions.streams import InstructionOptions, Stream, conversations
from training.readers.diffvqa import read_medical_diff_vqa
from training.readers.mimic import jpg_path
from training.readers.splits import find_leakage
import numpy as np

folder, report, asked, pairs, made = Path(sys.argv[1]), DropReport(), 0, 0, DropReport()
options = InstructionOptions(streams=frozenset(Stream), closed=False, lumen=False)
begin = time.monotonic()

def counted():
    global asked, pairs
    for record in read_medical_diff_vqa(folder, partial(jpg_path, folder), report, check_images=False):
        asked += len(record.asked)
        pairs += record.prior is not None
        if "conversations" in sys.argv:
            for _ in conversations(record, options, np.random.default_rng(0), made):
                pass
        yield record

leaks = find_leakage(counted())
peak = own_peak_bytes()
print(json.dumps({"asked": asked, "pairs": pairs, "dropped": report.total_dropped, "conversations": made.kept,
                  "peak": peak, "seconds": time.monotonic() - begin, "leaking patients": len(leaks.patients)}))
"""


def write_set(folder: Path, questions: int, pairs: int) -> None:
    """A set of exactly so many questions and pairs: all pairs first, then single-image questions up to the number."""
    subjects = pairs // 3 + 1
    while True:
        studies = mimic_studies(subjects)
        if sum(study.order > 1 for study in studies) >= pairs:
            break
        subjects += subjects // 10 + 1
    rows = vqa_questions(studies)
    differences = [row for row in rows if row[3] == "difference"][:pairs]
    singles = [row for row in rows if row[3] != "difference"]
    assert len(singles) >= questions - pairs
    step = len(singles) / (questions - pairs)
    chosen = [singles[int(number * step)] for number in range(questions - pairs)]
    vqa_studies_table(folder / "mimic_all.csv", studies)
    write_csv(folder / "mimic_pair_questions.csv", VQA_HEADER, [*chosen, *differences])


def read_in_a_process(folder: Path, *also: str) -> dict[str, float]:
    """Read in a process of its own, so that its peak memory is that of reading alone; also: "conversations"."""
    done = subprocess.run([sys.executable, "-c", _READ, str(folder), *also], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_memory_grows_little_with_the_number_of_questions(tmp_path: Path) -> None:
    sizes = ((2_000, 469), (12_000, 2_814))
    found = []
    for questions, pairs in sizes:
        write_set(tmp_path / str(questions), questions, pairs)
        found.append(read_in_a_process(tmp_path / str(questions)))
        assert (found[-1]["asked"], found[-1]["pairs"], found[-1]["dropped"]) == (questions, pairs, 0)
    bytes_each = (found[1]["peak"] - found[0]["peak"]) / (sizes[1][0] - sizes[0][0])
    assert found[0]["peak"] + bytes_each * QUESTIONS < LIMIT_BYTES


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_full_size_is_read_within_two_gigabytes(tmp_path: Path) -> None:
    write_set(tmp_path, QUESTIONS, PAIRS)
    found = read_in_a_process(tmp_path, "conversations")
    print(json.dumps(found))
    assert (found["asked"], found["pairs"], found["dropped"]) == (QUESTIONS, PAIRS, 0)
    assert found["peak"] < LIMIT_BYTES
