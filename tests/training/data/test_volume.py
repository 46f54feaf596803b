"""The source of samples at the published size of Medical-Diff-VQA: 700,703 questions within 2 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.readers.test_volume import LIMIT_BYTES, PAIRS, QUESTIONS, write_set

_INDEX = """
import json, sys, time
from functools import partial
from pathlib import Path
from benchmarks.memory import own_peak_bytes
import numpy as np
from training.data.datasets import DataSpec
from training.data import datasets
from training.instructions.streams import InstructionOptions, Stream
from training.data.mixing import MixSchedule
from training.readers.diffvqa import read_medical_diff_vqa
from training.readers.mimic import jpg_path
from training.data.index import SetSpec, set_index
from training.data.record_rows import row_to_record

folder, work = Path(sys.argv[1]), Path(sys.argv[2])
# the images of the published size are not written: everything but their decoding is the real thing
datasets._KINDS["diff-vqa"] = lambda spec, report: read_medical_diff_vqa(
    folder, partial(jpg_path, folder), report, check_images=False
)
begin = time.monotonic()
options = InstructionOptions(streams=frozenset(Stream), lumen=False)
index = set_index(SetSpec(data=f"diff-vqa:{folder},{folder}", split=None), options, work, fresh=True)
built = time.monotonic() - begin
sizes = [len(index.members[stream]) for stream in Stream if len(index.members[stream])]
schedule = MixSchedule(sizes, [1.0] * len(sizes), seed=0)
begin = time.monotonic()
step = max(1, len(index.rows) // 2000)
asked = sum(len(row_to_record(index.rows[number]).asked) for number in range(0, len(index.rows), step))
places = {schedule.place(number) for number in range(0, 10**7, 9973)}
read = time.monotonic() - begin
print(json.dumps({"records": len(index.rows), "peak": own_peak_bytes(),
                  "built": built, "read": read, "asked": asked, "places": len(places), "sizes": sizes}))
"""


def index_in_a_process(folder: Path, work: Path) -> dict[str, float]:
    """Make and read the index in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-c", _INDEX, str(folder), str(work)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_memory_grows_little_with_the_number_of_questions(tmp_path: Path) -> None:
    sizes = ((1_000, 235), (6_000, 1_407))
    found = []
    for questions, pairs in sizes:
        write_set(tmp_path / str(questions), questions, pairs)
        found.append(index_in_a_process(tmp_path / str(questions), tmp_path / "work"))
        assert found[-1]["asked"]
    bytes_each = (found[1]["peak"] - found[0]["peak"]) / (sizes[1][0] - sizes[0][0])
    assert found[0]["peak"] + bytes_each * QUESTIONS < LIMIT_BYTES


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_full_size_is_indexed_and_read_within_two_gigabytes(tmp_path: Path) -> None:
    write_set(tmp_path / "set", QUESTIONS, PAIRS)
    found = index_in_a_process(tmp_path / "set", tmp_path / "work")
    print(json.dumps(found))
    assert found["peak"] < LIMIT_BYTES
