"""kill −9 at any moment between the result and its proof: every document arrives, once, proven."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.context import NodeContext, utc_now
from dicom_node.index.tables import DeliveryState, JobState
from tests.deliver.nodes import all_jobs, deliveries, make_node, make_result
from tests.deliver.pacs import Pacs, running
from tests.support import REPOSITORY, wait_until


def kill_rounds(folder: Path, rounds: int, seed: int) -> None:
    """Start the delivering process, kill it after so many objects have come in or at a random time, again and again."""
    dice = random.Random(seed)
    with running(Pacs()) as pacs:
        where = {"name": "pacs", "port": pacs.port, "ae_title": "FAULTY", "same_association_seconds": 5}
        node = make_node(folder, utc_now, where)  # type: ignore[arg-type]
        config = folder / "config.toml"
        config.write_text(
            f'[node]\ndata_dir = "data"\n[database]\nurl = "sqlite:///index.db"\n[[destinations]]\nname = "pacs"\n'
            f'ae_title = "FAULTY"\nport = {pacs.port}\nsame_association_seconds = 5\n'
            # A report that was due on the killed association never comes: the time-out asks again.
            "[delivery]\nproof_timeout_seconds = 1\n",
            "utf-8",
        )
        uids: list[str] = []
        for _ in range(rounds):
            uids += make_result(node)
            kill_one(node, config, pacs, dice)
        process = start(config)
        try:
            wait_until(lambda: finished(node), seconds=120, what="all documents to be proven")
        finally:
            process.terminate()
            process.wait(60)
        assert sorted(pacs.kept) == sorted(uids), "no document lost, none under another name"
        assert {row.proof for row in deliveries(node)} == {"commitment"}
        node.database.close()


def kill_one(node: NodeContext, config: Path, pacs: Pacs, dice: random.Random) -> None:
    """One round: the kill falls on a state that the PACS or the index shows, so on every stage in turn."""
    sends, asks = pacs.received, pacs.actions
    confirmed = sum(row.state is DeliveryState.CONFIRMED for row in deliveries(node))
    signs = (
        lambda: any(job.state is JobState.RUNNING for job in all_jobs(node)),
        lambda: pacs.received > sends,
        lambda: any(row.state is DeliveryState.STORED for row in deliveries(node)),
        lambda: pacs.actions > asks,
        lambda: sum(row.state is DeliveryState.CONFIRMED for row in deliveries(node)) > confirmed,
    )
    sign = dice.choice(signs)
    process = start(config)
    try:
        # A stage may be over before it is seen; then the end of all is as good a moment.
        wait_until(lambda: sign() or finished(node), seconds=120, what="the moment to kill")
    finally:
        process.kill()
        process.wait(30)


def start(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.deliver.delivering", str(config)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finished(node: NodeContext) -> bool:
    return all(row.state is DeliveryState.CONFIRMED for row in deliveries(node))


def test_killed_at_a_few_moments(tmp_path: Path) -> None:
    kill_rounds(tmp_path, rounds=3, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_killed_a_hundred_times(tmp_path: Path) -> None:
    kill_rounds(tmp_path, rounds=100, seed=2)
