"""The study page: one line for each finding over the films that the result's checkpoint has read."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import select

from dicom_node.admin.patient_course import patient_course
from dicom_node.index.tables.core import Outcome, Result, Study
from tests.support.web_site import Site, running_site


def _add_film(site: Site, number: int, date: str, seen: str, *, device_uid: str, patient_id: str = "") -> None:
    with site.node.database.write() as session:
        shown = session.scalars(select(Study).where(Study.study_instance_uid == site.study_instance_uid)).one()
        study = Study(
            study_instance_uid=f"2.25.77.{number}",
            patient_id=patient_id or shown.patient_id,
            issuer_of_patient_id=shown.issuer_of_patient_id,
            study_date=date,
            first_instance_at=site.clock.now,
            last_instance_at=site.clock.now,
        )
        session.add(study)
        session.flush()
        finding = {"key": "pleural_effusion", "name": "Pleural effusion", "seen": seen, "level": None, "change": None}
        session.add(
            Result(
                study_pk=study.id,
                revision=1,
                outcome=Outcome.FINDINGS_ONLY,
                sop_instance_uid=f"2.25.78.{number}",
                prediction={"findings": [finding]},
                device_uid=device_uid,
                created_at=site.clock.now,
            )
        )


def test_the_page_shows_each_finding_over_the_films_of_one_checkpoint(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        with site.node.database.read() as session:
            shown, result = session.execute(
                select(Study, Result).join(Result.study).where(Study.study_instance_uid == site.study_instance_uid)
            ).one()
            assert patient_course(session, shown, result.device_uid) == (), "one film has no course"
        device = result.device_uid
        _add_film(site, 1, "19990101", "not seen", device_uid=device)
        _add_film(site, 2, "19990105", "possible", device_uid=device)
        _add_film(site, 5, "19990106", "no statement", device_uid=device)
        _add_film(site, 3, "19990107", "seen", device_uid="2.25.5")
        _add_film(site, 4, "19990108", "seen", device_uid=device, patient_id="SOMEBODY-ELSE")
        with site.node.database.read() as session:
            course = patient_course(session, shown, device)
        (row,) = [one for one in course if "effusion" in one.name.lower()]
        assert [place.seen for place in row.places] == ["not seen", "possible", "no statement", "seen"]
        assert row.places[-1].study_instance_uid == site.study_instance_uid
        with site.client("viewer") as client:
            page = client.get(f"/studies/{site.study_instance_uid}").text
        line = re.search(r'<th scope="row">[^<]*effusion</th>(.*?)</tr>', page, re.IGNORECASE)
        assert line is not None
        assert re.findall("[●○◌]", line[1]) == ["○", "◌", "●"]
        assert re.findall("– <small>([^<]*)<", line[1]) == ["neither seen nor excluded"]
