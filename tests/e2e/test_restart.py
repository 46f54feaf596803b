"""The plug is pulled: work that was interrupted is finished after the restart, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_node.index.tables.core import Instance, Job, JobKind, JobState, Result, StudyState
from tests.support.common import wait_until
from tests.support.dcmtk import storescu
from tests.support.node import Node, destination, new_node, running
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("archive"), dicomweb=False) as running:
        yield running


@pytest.fixture(scope="module")
def node(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    tiny = save_tiny(folder / "tiny")
    to = destination("pacs", orthanc.ae_title, orthanc.dicom_port, "find")
    node = new_node(folder, destinations=to, extra=f'[model]\nsource = "{tiny}"\n')
    with running(node):
        yield node
        assert node.stop() == 0


def _analyse_is_running(node: Node) -> bool:
    with node.database() as database, database.read() as session:
        return bool(
            session.scalar(select(func.count()).where(Job.kind == JobKind.ANALYSE, Job.state == JobState.RUNNING))
        )


def _received(node: Node) -> int:
    with node.database() as database, database.read() as session:
        return session.scalar(select(func.count()).select_from(Instance)) or 0


@pytest.mark.parametrize(("seed", "end"), [(21, Node.stop), (22, Node.kill)], ids=["SIGTERM", "SIGKILL"])
def test_interrupted_work_is_finished_once(
    node: Node, orthanc: Orthanc, tmp_path: Path, seed: int, end: Callable[[Node], object]
) -> None:
    made = write_study_pair(tmp_path / "studies", seed, long_side=384)
    before = _received(node)
    storescu([*made.prior.files, *made.current.files], node.port)
    wait_until(lambda: _analyse_is_running(node), seconds=120, what="an analysis to begin", closely=True)
    end(node)
    assert _received(node) == before + len(made.prior.files) + len(made.current.files)
    node.start()
    node.wait_for_results(before + 2)
    with node.database() as database, database.read() as session:
        results = session.scalars(select(Result)).all()
        assert len(results) == before + 2
        assert {result.study.state for result in results} == {StudyState.ANALYSED}
        jobs = session.scalars(select(Job).where(Job.kind == JobKind.ANALYSE)).all()
        assert [job.state for job in jobs] == [JobState.DONE] * (before + 2)
    for study in (made.prior, made.current):
        held = orthanc.instances(StudyInstanceUID=study.study_instance_uid, Modality="SR")
        assert len(held) == 2
