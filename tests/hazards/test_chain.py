"""Wrong patient, withdrawn films, lost and doubled results over the whole chain: docs/hazards.md names each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import select

from dicom_node.admin import operations
from dicom_node.admin.quarantine import settle
from dicom_node.context import NodeContext
from dicom_node.errors import UsageError
from dicom_node.index.tables.core import Outcome, Quarantine, Study, StudyState
from dicom_node.priors.explain import explain_choice
from dicom_node.studies.register import Registered
from model.predict import load_predictor
from tests.support.chain import (
    Models,
    analyse_all,
    copied,
    current_results,
    document,
    pair,
    predecessors,
    receive,
    rejection,
    text_of,
)
from tests.support.delivery_node import Clock, make_node
from tests.support.tiny_nvila import save_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(predictor=load_predictor(save_tiny(tmp_path_factory.mktemp("models") / "tiny", brief=True)))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    return pair(tmp_path_factory.mktemp("films"), 51)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeContext]:
    made = make_node(tmp_path, Clock())
    yield made
    made.database.close()


def study(node: NodeContext, film: Dataset) -> Study:
    with node.database.read() as session:
        return session.scalars(select(Study).where(Study.study_instance_uid == film.StudyInstanceUID)).one()


def reprocess(node: NodeContext, film: Dataset) -> None:
    with node.database.write() as session:
        operations.reprocess(session, film.StudyInstanceUID, settings=node.settings, now=node.clock(), who="admin")


def test_without_doubt_the_pair_is_compared(node: NodeContext, models: Models, films: tuple[Dataset, Dataset]) -> None:
    """The base of the tests below: nothing but what each of them adds keeps these two from being compared."""
    prior, current = films
    receive(node, prior)
    analyse_all(node, models)
    receive(node, current)
    analyse_all(node, models)
    (result,) = current_results(node, current.StudyInstanceUID)
    assert (result.outcome, result.prior_sop_instance_uid) == (Outcome.COMPARED, prior.SOPInstanceUID)


def test_a_film_that_came_again_for_another_patient_is_no_prior(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    """An archive corrects the patient of a film and sends it again: the copy filed under the wrong one is not used."""
    prior, current = films
    receive(node, prior)
    receive(node, current)
    analyse_all(node, models)
    assert current_results(node, current.StudyInstanceUID)[0].outcome is Outcome.COMPARED
    corrected = copied(prior, PatientID="SOMEBODY-ELSE", PatientName="Else^Somebody", PatientBirthDate="19331224")
    assert receive(node, corrected).outcome is Registered.CONFLICT
    assert study(node, current).state is StudyState.OPEN, "what was compared with it is made anew"
    analyse_all(node, models)
    (result,) = current_results(node, current.StudyInstanceUID)
    assert (result.outcome, result.prior_sop_instance_uid) == (Outcome.FINDINGS_ONLY, "")
    assert "another object with its UID came for another patient" in text_of(document(node, result))
    (own,) = current_results(node, prior.StudyInstanceUID)
    assert (own.outcome, own.supersedes_pk is not None) == (Outcome.NOT_ANALYSED, True)
    _, ((_, choice),), _ = explain_choice(current.StudyInstanceUID, node)
    assert choice.prior is None
    # The peer tries again and again: nothing is made anew for that.
    receive(node, corrected)
    assert study(node, current).state is StudyState.ANALYSED
    with node.database.read() as session:
        (set_apart,) = session.scalars(select(Quarantine)).all()
    with pytest.raises(UsageError, match="not in quarantine: 999"):
        settle(node, {set_apart.id, 999}, who="admin")
    assert node.store.path(set_apart.path).is_file()
    assert settle(node, {set_apart.id}, who="admin") == 1
    assert not node.store.path(set_apart.path).exists()
    with pytest.raises(UsageError, match="not in quarantine"):
        settle(node, {set_apart.id}, who="admin")
    analyse_all(node, models)
    assert current_results(node, prior.StudyInstanceUID)[0].outcome is Outcome.FINDINGS_ONLY
    receive(node, corrected)
    reprocess(node, current)
    analyse_all(node, models)
    assert {r.outcome for r in current_results(node, current.StudyInstanceUID)} == {Outcome.COMPARED}


def test_other_content_for_the_same_patient_is_set_apart_and_disputes_nothing(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    prior, current = films
    receive(node, prior)
    assert receive(node, copied(prior, WindowCenter="100")).outcome is Registered.CONFLICT
    receive(node, current)
    analyse_all(node, models)
    assert current_results(node, current.StudyInstanceUID)[0].outcome is Outcome.COMPARED


def test_a_retrieved_copy_for_another_patient_is_no_duplicate(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    prior, _ = films
    receive(node, prior, purpose="prior")
    assert receive(node, copied(prior, WindowCenter="100"), purpose="prior").outcome is Registered.DUPLICATE
    assert receive(node, copied(prior, PatientID="ELSE"), purpose="prior").outcome is Registered.CONFLICT


@pytest.mark.parametrize("code", ["113001", "113037", "113038", "113039"])
def test_a_withdrawn_film_is_no_prior(
    code: str, node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    prior, current = films
    receive(node, prior)
    receive(node, rejection(prior, code))
    receive(node, current)
    analyse_all(node, models)
    (result,) = current_results(node, current.StudyInstanceUID)
    assert result.outcome is Outcome.FINDINGS_ONLY
    assert "it was withdrawn" in text_of(document(node, result))
    _, ((_, choice),), _ = explain_choice(current.StudyInstanceUID, node)
    assert choice.prior is None


def test_a_note_that_selects_films_for_teaching_withdraws_nothing(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    prior, current = films
    receive(node, prior)
    receive(node, rejection(prior, "113004"))
    receive(node, current)
    analyse_all(node, models)
    assert current_results(node, current.StudyInstanceUID)[0].outcome is Outcome.COMPARED


def test_a_late_rejection_note_makes_every_result_anew_that_rests_on_the_film(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    prior, current = films
    receive(node, prior)
    receive(node, current)
    analyse_all(node, models)
    (before,) = current_results(node, current.StudyInstanceUID)
    (own_before,) = current_results(node, prior.StudyInstanceUID)
    assert before.outcome is Outcome.COMPARED
    receive(node, rejection(prior))
    analyse_all(node, models)
    (result,) = current_results(node, current.StudyInstanceUID)
    assert (result.outcome, result.supersedes_pk) == (Outcome.FINDINGS_ONLY, before.id)
    (own,) = current_results(node, prior.StudyInstanceUID)
    assert own.outcome is Outcome.NOT_ANALYSED
    report = document(node, own)
    assert "it was withdrawn because its worklist entry was wrong" in text_of(report)
    assert predecessors(report) == {str(document(node, own_before).SOPInstanceUID)}
    receive(node, rejection(prior))
    analyse_all(node, models)
    assert len(current_results(node, prior.StudyInstanceUID)) == 1


def test_what_was_said_of_another_image_is_replaced_too(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    """The lateral came first and got "no frontal image"; the frontal one's report must not stand beside that."""
    _, current = films
    lateral = copied(
        current,
        SOPInstanceUID=generate_uid(),
        ViewPosition="LL",
        PatientOrientation=["A", "F"],
        InstanceNumber=2,
        PixelData=bytes(reversed(current.PixelData)),
    )
    for keyword in ("ViewCodeSequence", "SeriesDescription", "StudyDescription", "ProtocolName"):
        if keyword in lateral:
            delattr(lateral, keyword)
    receive(node, lateral)
    analyse_all(node, models)
    (first,) = current_results(node, current.StudyInstanceUID)
    assert first.outcome is Outcome.NOT_ANALYSED
    receive(node, current)
    analyse_all(node, models)
    (second,) = current_results(node, current.StudyInstanceUID)
    assert second.outcome is Outcome.FINDINGS_ONLY
    assert str(document(node, first).SOPInstanceUID) in predecessors(document(node, second))


def test_patient_and_date_come_from_whichever_object_says_them(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    """A study whose first object bears no patient ID is found as a prior, and takes no second patient in."""
    prior, current = films
    nameless = {"PatientID": "", "IssuerOfPatientID": "", "PatientBirthDate": "", "StudyDate": "", "PatientName": ""}
    receive(node, rejection(prior, "113004", **nameless))
    receive(node, prior)
    other = copied(prior, SOPInstanceUID=generate_uid(), PatientID="ELSE")
    assert receive(node, other).outcome is Registered.MISMATCH
    receive(node, current)
    analyse_all(node, models)
    assert current_results(node, current.StudyInstanceUID)[0].outcome is Outcome.COMPARED


def test_a_placeholder_id_proves_nobody(node: NodeContext, models: Models, films: tuple[Dataset, Dataset]) -> None:
    prior, current = (copied(film, PatientID="NOTFALL", PatientName="Notfall^Mann") for film in films)
    receive(node, prior)
    receive(node, current)
    analyse_all(node, models)
    (result,) = current_results(node, current.StudyInstanceUID)
    assert result.outcome is Outcome.FINDINGS_ONLY
    assert "the patient ID is a placeholder" in text_of(document(node, result))


def test_a_mirrored_film_is_neither_read_nor_compared_with(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    prior, current = films
    receive(node, copied(prior, PatientOrientation=["R", "F"]))
    receive(node, current)
    analyse_all(node, models)
    (own,) = current_results(node, prior.StudyInstanceUID)
    assert own.outcome is Outcome.NOT_ANALYSED
    assert "left and right cannot be trusted" in text_of(document(node, own))
    (result,) = current_results(node, current.StudyInstanceUID)
    assert result.outcome is Outcome.FINDINGS_ONLY
    assert "it is mirrored or turned" in text_of(document(node, result))


def test_a_film_upside_down_is_not_read(node: NodeContext, models: Models, films: tuple[Dataset, Dataset]) -> None:
    _, current = films
    turned = current.pixel_array[::-1, ::-1].tobytes()
    receive(node, copied(current, PixelData=turned))
    analyse_all(node, models)
    (result,) = current_results(node, current.StudyInstanceUID)
    assert result.outcome is Outcome.NOT_ANALYSED
    assert "turned by 180" in text_of(document(node, result))


def test_a_study_of_notes_alone_is_not_analysed(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    """A presentation state or note of an old study that never was here must not bring a report into that study."""
    _, current = films
    receive(node, rejection(current, "113004"))
    analyse_all(node, models)
    assert current_results(node, current.StudyInstanceUID) == []
    receive(node, current)
    analyse_all(node, models)
    assert current_results(node, current.StudyInstanceUID)[0].outcome is Outcome.FINDINGS_ONLY


def test_the_pictures_of_another_such_node_wake_nothing(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    """Two nodes that get each other's secondary captures by auto-routing would report in turn for ever."""
    _, current = films
    receive(node, current)
    analyse_all(node, models)
    picture = copied(
        current,
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        Modality="OT",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
        ManufacturerModelName="dicom-node",
    )
    assert receive(node, picture).outcome is Registered.NEW
    after = study(node, current)
    assert (after.state, after.revision) == (StudyState.ANALYSED, 1)


def test_a_row_without_its_file_is_healed_by_the_sender(tmp_path: Path, films: tuple[Dataset, Dataset]) -> None:
    """A commit of which nobody knows whether it held, and the file taken back: the second send must not lose it."""
    from tests.support.receiver import running_node, send

    _, current = films
    with running_node(tmp_path) as node:
        assert send(node, current) == [0]
        (row,) = node.instances()
        (path,) = node.files()
        path.unlink()
        for name in node.settings.node.data_dir.rglob(f"{path.stem}.reserved"):
            name.unlink()
        assert send(node, current) == [0]
        (again,) = node.instances()
        assert again.id == row.id
        assert [file.name for file in node.files()] == [Path(again.path).name]
        assert send(node, current) == [0]
        assert len(node.files()) == 1
