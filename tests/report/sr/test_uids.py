"""UIDs, evidence, predecessors, flags and equipment of the documents."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import pytest
from pydicom import Dataset, dcmread

from dicom_node.dicom.uids import is_uid
from dicom_node.report.documents import build_documents
from dicom_node.report.request import DocumentKind, PredecessorDocument, ReportRequest
from dicom_node.report.sr.iod import content_items
from tests.support import report_cases as cases
from tests.support.report_cases import CURRENT, MODEL, PRIOR, kinds

NEW = kinds()["new"]


def _uids(request: ReportRequest) -> list[str]:
    return [d.sop_instance_uid for d in build_documents(request, set(DocumentKind))]


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _tracking(request: ReportRequest) -> set[str]:
    items = content_items(build_documents(request)[1].dataset)
    return {i.UID for i in items if i.ValueType == "UIDREF" and i.ConceptNameCodeSequence[0].CodeValue == "112040"}


def test_a_retry_gives_the_same_bytes() -> None:
    first, second = (build_documents(NEW, set(DocumentKind)) for _ in range(2))
    assert [_bytes(d.dataset) for d in first] == [_bytes(d.dataset) for d in second]


def test_reports_that_read_alike_keep_their_own_values() -> None:
    """The groups of findings are copies of one form: neither report writes into the other's."""
    assert NEW.prediction is not None
    image = dataclasses.replace(CURRENT, header=cases.header("c9", "20260301"))
    findings = tuple(dataclasses.replace(f, probability=f.probability * 0.999) for f in NEW.prediction.findings)
    other = dataclasses.replace(NEW, current=image, prediction=dataclasses.replace(NEW.prediction, findings=findings))
    first, between, second = (build_documents(request)[1] for request in (NEW, other, NEW))
    assert _bytes(first.dataset) == _bytes(second.dataset)
    own, others = (list(content_items(document.dataset)) for document in (first, between))
    assert len(own) == len(others)
    assert _percents(own) != _percents(others)
    uid, other_uid = (str(request.current.header.SOPInstanceUID) for request in (NEW, other))
    assert {uid, other_uid} & _images(own) == {uid}
    assert {uid, other_uid} & _images(others) == {other_uid}


def _percents(items: list[Dataset]) -> list[float]:
    return [float(i.MeasuredValueSequence[0].NumericValue) for i in items if i.ValueType == "NUM"]


def _images(items: list[Dataset]) -> set[str]:
    return {str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in items if i.ValueType == "IMAGE"}


CHANGED: dict[str, Callable[[ReportRequest], ReportRequest]] = {
    "revision": lambda r: dataclasses.replace(r, revision=2),
    "generation": lambda r: dataclasses.replace(r, generation=2),
    "checkpoint": lambda r: dataclasses.replace(r, model=dataclasses.replace(MODEL, device_uid="2.25.7")),
    "prior": lambda r: dataclasses.replace(r, prior=dataclasses.replace(PRIOR, header=cases.header("p2", "20260215"))),
    "no prior": lambda r: dataclasses.replace(r, prior=None),
    "language": lambda r: dataclasses.replace(r, language="de"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_another_input_gives_other_uids_but_the_same_tracking(what: str) -> None:
    other = CHANGED[what](NEW)
    assert not set(_uids(NEW)) & set(_uids(other))
    if what != "no prior":
        assert _tracking(NEW) == _tracking(other)


def test_the_clock_does_not_enter_the_uids() -> None:
    later = dataclasses.replace(NEW, produced_at=NEW.produced_at.replace(year=2027))
    assert _uids(NEW) == _uids(later)


def test_series_and_study() -> None:
    """Each document has a series of the current study, which a viewer's list tells apart at its first words."""
    documents = {d.kind: d for d in build_documents(NEW, set(DocumentKind))}
    series = {kind: d.series_instance_uid for kind, d in documents.items()}
    assert len(set(series.values())) == 4
    assert len({d.dataset.SeriesDescription[:10] for d in documents.values()}) == 4
    assert len({d.dataset.SeriesNumber for d in documents.values()}) == 4
    assert {d.dataset.StudyInstanceUID for d in documents.values()} == {CURRENT.header.StudyInstanceUID}
    assert [documents[k].dataset.Modality for k in DocumentKind] == ["SR", "SR", "DOC", "OT"]
    assert all(is_uid(d.sop_instance_uid) for d in documents.values())


def test_evidence_current_and_prior_stand_in_their_own_sequences() -> None:
    """PS3.3 section C.17.2.3: never the same instance in both."""
    for document in build_documents(NEW):
        ds = document.dataset
        current, other = ds.CurrentRequestedProcedureEvidenceSequence, ds.PertinentOtherEvidenceSequence
        assert [i.StudyInstanceUID for i in current] == [CURRENT.header.StudyInstanceUID]
        assert [i.StudyInstanceUID for i in other] == [PRIOR.header.StudyInstanceUID]
        named = other[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert named.ReferencedSOPInstanceUID == PRIOR.header.SOPInstanceUID


def test_a_prior_of_the_same_study_is_current_evidence() -> None:
    header = cases.header("earlier exposure", "20260310", "070000")
    header.StudyInstanceUID = CURRENT.header.StudyInstanceUID
    request = dataclasses.replace(NEW, prior=dataclasses.replace(PRIOR, header=header))
    ds = build_documents(request)[1].dataset
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(series) == 2
    assert "PertinentOtherEvidenceSequence" not in ds


def test_without_a_prior_there_is_no_other_evidence_and_no_change_item() -> None:
    ds = build_documents(kinds()["no prior"])[1].dataset
    assert "PertinentOtherEvidenceSequence" not in ds
    names = {i.ConceptNameCodeSequence[0].CodeValue for i in content_items(ds)}
    assert "111049" not in names
    assert "CHANGE_CERTAINTY" not in names


def test_predecessors_are_named_by_kind() -> None:
    earlier = tuple(
        PredecessorDocument(
            kind=d.kind,
            study_instance_uid=str(d.dataset.StudyInstanceUID),
            series_instance_uid=d.series_instance_uid,
            sop_class_uid=d.sop_class_uid,
            sop_instance_uid=d.sop_instance_uid,
        )
        for d in build_documents(NEW)
    )
    late = dataclasses.replace(NEW, revision=2, predecessors=earlier)
    for document, before in zip(build_documents(late), earlier, strict=True):
        study = document.dataset.PredecessorDocumentsSequence[0]
        reference = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == before.sop_instance_uid
        assert len(document.dataset.PredecessorDocumentsSequence) == 1


def test_flags_equipment_and_copied_identity() -> None:
    for document in build_documents(NEW):
        ds = document.dataset
        flags = (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag)
        assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        equipment = ds.ContributingEquipmentSequence[0]
        assert (equipment.ManufacturerModelName, equipment.DeviceUID) == (MODEL.name, MODEL.device_uid)
        assert (ds.PatientID, ds.IssuerOfPatientID, ds.AccessionNumber) == ("T-0001", "HOSPITAL", "ACC20260310")
        assert ds.ReferencedRequestSequence[0].AccessionNumber == "ACC20260310"
        assert ds.SeriesNumber > 9000


@pytest.mark.parametrize("name", kinds())
def test_a_demonstration_says_so_everywhere(name: str) -> None:
    """In the header and in the content of every SR, whatever the result."""
    for document in build_documents(kinds()[name]):
        words = "demonstration, not for clinical use"
        assert words in document.dataset.SeriesDescription
        texts = [i.TextValue for i in content_items(document.dataset) if i.ValueType == "TEXT"]
        assert any(words in text for text in texts)


def test_the_private_scheme_is_identified() -> None:
    ds = dcmread(io.BytesIO(_bytes(build_documents(NEW)[1].dataset)))
    item = ds.CodingSchemeIdentificationSequence[0]
    assert item.CodingSchemeDesignator == "99LUMEN"
    assert is_uid(item.CodingSchemeUID)
