"""The plug is pulled: work that was interrupted is finished after the restart, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_node.index.tables.core import Instance, Job, JobKind, JobState, Result, StudyState
from tests.support.common import wait_until
from tests.support.dcmtk import storescu
from tests.support.node import Node, destination, new_node
from tests.support.orthanc import Orthanc, running_orthanc
from training.phantom.dicom import write_study_pair


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("archive"), dicomweb=False) as running:
        yield running


def _analyse_is_running(node: Node) -> bool:
    with node.database() as database, database.read() as session:
        return bool(
            session.scalar(select(func.count()).where(Job.kind == JobKind.ANALYSE, Job.state == JobState.RUNNING))
        )


def _all_received(node: Node, count: int) -> bool:
    with node.database() as database, database.read() as session:
        return session.scalar(select(func.count()).select_from(Instance)) == count


@pytest.mark.parametrize("end", [Node.stop, Node.kill], ids=["SIGTERM", "SIGKILL"])
def test_interrupted_work_is_finished_once(end: Callable[[Node], object], orthanc: Orthanc, tmp_path: Path) -> None:
    made = write_study_pair(tmp_path / "studies", 21)
    node = new_node(tmp_path / "node", destinations=destination("pacs", orthanc.ae_title, orthanc.dicom_port, "find"))
    node.start()
    try:
        storescu([*made.prior.files, *made.current.files], node.port)
        wait_until(lambda: _analyse_is_running(node), seconds=60, what="an analysis to begin", closely=True)
        end(node)
        assert _all_received(node, len(made.prior.files) + len(made.current.files))
        node.start()
        node.wait_for_results(2)
        with node.database() as database, database.read() as session:
            results = session.scalars(select(Result)).all()
            assert len(results) == 2
            assert {result.study.state for result in results} == {StudyState.ANALYSED}
            jobs = session.scalars(select(Job).where(Job.kind == JobKind.ANALYSE)).all()
            assert [job.state for job in jobs] == [JobState.DONE] * 2
        for study in (made.prior, made.current):
            held = orthanc.instances(StudyInstanceUID=study.study_instance_uid, Modality="SR")
            assert len(held) == 2
    finally:
        assert node.process is not None
        if node.process.poll() is None:
            assert node.stop() == 0
