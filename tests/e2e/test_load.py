"""Two studies a second through a whole node: nothing lost, nothing twice, and memory, files and disk stay flat."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.bench_soak import report, soak

SECONDS = float(os.environ.get("DICOM_NODE_SOAK_SECONDS", "600"))
RISE_MIB = 24.0
"""Of the fitted line of one process: less than a hundredth of a MiB for each study of the run's last two thirds."""
RISE_FILES = 4.0


@pytest.mark.soak
@pytest.mark.timeout(25 * SECONDS + 1200)
def test_a_steady_load_leaves_the_node_as_it_was(tmp_path: Path) -> None:
    run = soak(tmp_path, seconds=SECONDS, rate=2.0, model="tiny")
    print(report(run))
    assert run.refused == 0
    assert run.studies == run.current_results == run.sent
    assert run.twice_current == run.unproven == run.dead == run.images_left == 0
    assert run.at_pacs == run.documents == 2 * run.sent
    processes = [one for one in run.trends if not one.name.startswith("disk")]
    assert {"main (sweeps, pages)", "receive-0", "work"} <= {one.name for one in processes}
    for one in processes:
        assert one.rise < RISE_MIB, f"{one.name} grows: {one}"
        assert one.files_rise < RISE_FILES, f"{one.name} opens and does not close: {one}"
