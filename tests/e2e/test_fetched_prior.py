"""A study whose prior lies in an archive: it is asked, fetched and compared with; by C-MOVE, C-GET and DICOMweb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pydicom
import pytest
from pydicom import Dataset
from sqlalchemy import select

from dicom_node.index.tables.core import Job, JobKind, Outcome, PriorSearch, Result, Study
from tests.e2e.test_story import Site, _evidence, _spoken, _texts
from tests.support.archives import running_qrscp
from tests.support.common import wait_until
from tests.support.dcmtk import storescu
from tests.support.node import destination, new_node, running
from tests.support.orthanc import running_orthanc
from training.phantom.dicom import PhantomStudies, write_study_pair

SEEDS = {"move": 31, "get": 32, "dicomweb": 33}
"""Way of retrieval → the made-up patient whose earlier film lies there and nowhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archives:
    """A node without a single film, three archives that hold one patient's earlier film each."""

    site: Site
    pairs: dict[str, PhantomStudies]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    folder = tmp_path_factory.mktemp("archives")
    pairs = {way: write_study_pair(folder / way, seed, long_side=384) for way, seed in SEEDS.items()}
    # archives are followed here; whether a film is like those of training is asked elsewhere
    node = new_node(folder / "node", extra='[model]\nunfamiliar = "warn"\n')
    modalities = {"LUMEN": ("127.0.0.1", node.port)}
    old_films = [pydicom.dcmread(path) for path in pairs["get"].prior.files]
    with (
        running_orthanc(folder / "pacs", modalities=modalities) as pacs,
        running_qrscp(folder / "old", node_port=node.port, films=old_films) as old,
        running_orthanc(folder / "web") as web,
    ):
        for archive, way in ((pacs, "move"), (web, "dicomweb")):
            for path in pairs[way].prior.files:
                archive.upload(path.read_bytes())
        with node.config.open("a") as config:
            config.write(destination("pacs", pacs.ae_title, pacs.dicom_port, "find"))
            config.write(_query("pacs", "move", ae_title=pacs.ae_title, port=pacs.dicom_port))
            config.write(_query("old", "get", ae_title="QRSCP", port=old.port))
            config.write(_query("web", "dicomweb", url=web.dicomweb_url))
        with running(node):
            yield Archives(site=Site(node=node, orthanc=pacs), pairs=pairs)


def _query(name: str, retrieve: str, **values: object) -> str:
    lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in values.items()]
    return "\n".join(["[[query]]", f'name = "{name}"', f'retrieve = "{retrieve}"', *lines, ""])


def _searches(site: Site, study_instance_uid: str) -> dict[str, tuple[str, list[str]]]:
    """Archive → how asking it for the study's priors ended, and what came."""
    with site.node.database() as database, database.read() as session:
        rows = session.scalars(
            select(PriorSearch)
            .join(Study, PriorSearch.study_pk == Study.id)
            .where(Study.study_instance_uid == study_instance_uid)
        )
        return {row.peer: (row.outcome, row.fetched) for row in rows}


@pytest.mark.parametrize(("way", "archive"), [("move", "pacs"), ("get", "old"), ("dicomweb", "web")])
def test_the_prior_is_fetched_and_compared_with(archives: Archives, way: str, archive: str) -> None:
    site, made = archives.site, archives.pairs[way]
    uid, prior_uid = made.current.study_instance_uid, made.prior.study_instance_uid
    storescu(made.current.files, site.node.port)
    wait_until(lambda: uid in site.results(), seconds=240, what="the result")
    found = _searches(site, uid)
    others = {"pacs", "old", "web"} - {archive}
    assert found[archive] == ("fetched", [prior_uid])
    assert {found[name][0] for name in others} == {"nothing"}
    result = site.results()[uid]
    assert (result.outcome, result.prior_study_instance_uid) == (Outcome.COMPARED, prior_uid)
    wait_until(lambda: len(site.reports(uid)) == 2, seconds=120, what="both documents at the archive")
    current, prior = (pydicom.dcmread(study.files[0]) for study in (made.current, made.prior))
    for report in site.reports(uid).values():
        _refers(report, current, prior)
    text = _texts(site.reports(uid)["reading"])
    assert _spoken(current.StudyDate) in text
    assert _spoken(prior.StudyDate) in text
    _fetched_is_no_work(site, prior_uid)


def _refers(report: Dataset, current: Dataset, prior: Dataset) -> None:
    assert _evidence(report, "CurrentRequestedProcedureEvidenceSequence") == {current.SOPInstanceUID}
    assert _evidence(report, "PertinentOtherEvidenceSequence") == {prior.SOPInstanceUID}


def _fetched_is_no_work(site: Site, prior_uid: str) -> None:
    """A fetched study is only compared with: it gets no analysis, no result and no report of its own."""
    with site.node.database() as database, database.read() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == prior_uid)).one()
        assert study.purpose == "prior"
        assert not session.scalars(select(Result).where(Result.study_pk == study.id)).all()
        jobs = session.scalars(select(Job).where(Job.kind == JobKind.ANALYSE)).all()
        assert not [job for job in jobs if job.payload["study_instance_uid"] == prior_uid]
    assert site.reports(prior_uid) == {}
