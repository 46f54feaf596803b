"""C-ECHO and C-STORE against a real receiver: statuses, bytes, rows, and what stays on the disk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import generate_uid

from dicom_node.dicom.sop_classes import EVERY_STORAGE, RADIOGRAPHY, REPORTS, TRANSFER_SYNTAXES
from dicom_node.index.tables.core import Document, Instance, Outcome, QuarantineReason, Result, Study, StudyState
from tests.support.receiver import CR, RunningNode, echo, radiograph, running_node, send
from tests.support.scripted_peer import EXPLICIT, IMPLICIT, VERIFICATION, Peer

BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, each_index_of_module: str) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node")) as running:
        yield running


def encoded(data_set: Dataset, transfer_syntax: str) -> bytes:
    """The bytes of a data set as a peer would send them in this transfer syntax."""
    stream = DicomBytesIO()
    stream.is_implicit_VR = transfer_syntax == IMPLICIT
    stream.is_little_endian = transfer_syntax != BIG_ENDIAN
    if transfer_syntax not in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED):
        data_set = Dataset(data_set)
        # Encapsulated: an empty offset table, one fragment, the end.
        item = b"\xfe\xff\x00\xe0"
        data_set.PixelData = item + bytes(4) + item + struct.pack("<I", 6) + b"\xff\xd8\0\0\xff\xd9"
        data_set["PixelData"].is_undefined_length = True
    write_dataset(stream, data_set)
    value = stream.getvalue()
    if transfer_syntax == DEFLATED:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        value = deflate.compress(value) + deflate.flush()
        value += b"\0" * (len(value) % 2)
    return value


def study_of(node: RunningNode, data_set: Dataset) -> Study:
    with node.database.read() as session:
        study = session.query(Study).filter_by(study_instance_uid=data_set.StudyInstanceUID).one()
        session.expunge_all()
        return study


def test_echo(node: RunningNode) -> None:
    assert echo(node.port) == 0x0000


def test_a_stored_instance_is_a_file_and_a_row(node: RunningNode) -> None:
    data_set = radiograph(PatientName="山田^太郎=やまだ^たろう")
    assert send(node, data_set) == [0x0000]
    row = node.instances()[-1]
    assert row.sop_instance_uid == data_set.SOPInstanceUID
    assert node.store.meta(row.path).sop_instance_uid == data_set.SOPInstanceUID
    assert (row.rows, row.columns, row.view_position, row.acquired_at) == (8, 8, "PA", "20260102101213.500000")
    study = study_of(node, data_set)
    assert study.patient_name == "山田^太郎=やまだ^たろう"
    assert (study.state, study.revision, study.purpose, study.calling_ae_title) == (
        StudyState.OPEN,
        1,
        "routed",
        "TESTSCU",
    )


def test_every_wanted_class_in_every_transfer_syntax_keeps_its_bytes(node: RunningNode) -> None:
    """Bit by bit: what the peer sent lies behind our header. Negotiated: all by all; sent: every fourth, in turn."""
    classes = sorted(RADIOGRAPHY | REPORTS)
    for turn, transfer_syntax in enumerate(sorted(TRANSFER_SYNTAXES)):
        sent: dict[str, bytes] = {}
        with Peer(node.port) as peer:
            answers = peer.associate([(sop_class, [transfer_syntax]) for sop_class in classes])
            assert answers == {2 * n + 1: (0, transfer_syntax) for n in range(len(classes))}
            for number, sop_class in enumerate(classes):
                if (number - turn) % 4:
                    continue
                data_set = radiograph(SOPClassUID=sop_class)
                data = encoded(data_set, transfer_syntax)
                uid = str(data_set.SOPInstanceUID)
                assert peer.store(2 * number + 1, sop_class, uid, data).status == 0x0000, (sop_class, transfer_syntax)
                sent[uid] = data
            peer.release()
        rows = {row.sop_instance_uid: row for row in node.instances()}
        for uid, data in sent.items():
            assert node.store.read_data_set(rows[uid].path) == data
            assert node.store.meta(rows[uid].path).transfer_syntax_uid == transfer_syntax
            assert (rows[uid].transfer_syntax_uid, rows[uid].view_position) == (transfer_syntax, "PA")


def test_unwanted_classes_and_syntaxes_are_refused_by_rule(node: RunningNode) -> None:
    jpip = "1.2.840.10008.1.2.4.94"
    ct = "1.2.840.10008.5.1.4.1.1.2"
    with Peer(node.port) as peer:
        answers = peer.associate(
            [(ct, [EXPLICIT]), (CR, [jpip]), (CR, [jpip, IMPLICIT, EXPLICIT]), ("1.2.3", [EXPLICIT])]
        )
        assert [result for result, _ in answers.values()] == [3, 4, 0, 3]
        assert answers[5][1] == IMPLICIT, "the caller's first supported syntax is its native one"
    assert ct in EVERY_STORAGE


def test_a_duplicate_is_a_success_and_one_file(node: RunningNode) -> None:
    data_set = radiograph()
    assert send(node, data_set, data_set) == [0, 0]
    assert send(node, data_set) == [0]
    rows = [row for row in node.instances() if row.sop_instance_uid == data_set.SOPInstanceUID]
    assert len(rows) == 1
    assert len(node.files()) == node.count(Instance) + len(node.quarantined())


def test_other_content_under_the_same_uid_is_quarantined(node: RunningNode) -> None:
    data_set = radiograph()
    other = radiograph(
        SOPInstanceUID=data_set.SOPInstanceUID,
        StudyInstanceUID=data_set.StudyInstanceUID,
        SeriesInstanceUID=data_set.SeriesInstanceUID,
        PixelData=bytes(128),
    )
    before = len(node.quarantined())
    assert send(node, data_set, other, other) == [0x0000, 0xC002, 0xC002]
    row = node.quarantined()[before]
    assert (row.reason, row.times, row.sop_instance_uid) == (QuarantineReason.CONFLICT, 2, data_set.SOPInstanceUID)
    assert len(node.quarantined()) == before + 1
    assert other.PixelData in node.store.read(row.path)
    kept = next(row for row in node.instances() if row.sop_instance_uid == data_set.SOPInstanceUID)
    assert data_set.PixelData in node.store.read_data_set(kept.path)


@pytest.mark.parametrize(
    "uid", ["", "../../../../etc/passwd", "/etc/passwd", "1." * 40 + "1", "1.2.03", "1.2.3\\1.2.4", "abc", "1.2.3\n4"]
)
def test_what_is_no_uid_is_quarantined_and_names_no_file(node: RunningNode, uid: str) -> None:
    data_set = radiograph()
    data = encoded(data_set, EXPLICIT).replace(
        _ui(0x0008, 0x0018, str(data_set.SOPInstanceUID)), _ui(0x0008, 0x0018, uid)
    )
    before, files = len(node.quarantined()), set(node.files())
    with Peer(node.port) as peer:
        peer.associate([(CR, [EXPLICIT])])
        assert peer.store(1, CR, uid, data).status == 0xC001
    row = node.quarantined()[before]
    assert row.reason == QuarantineReason.BAD_UID
    new = set(node.files()) - files
    assert new == {node.store.path(row.path)}
    assert node.store.read(row.path).endswith(data)


def _ui(group: int, element: int, value: str) -> bytes:
    raw = value.encode()
    raw += b"\0" * (len(raw) % 2)
    return struct.pack("<HH2sH", group, element, b"UI", len(raw)) + raw


@pytest.mark.parametrize(
    ("elements", "status", "reason"),
    [
        ({"StudyInstanceUID": None}, 0xC001, QuarantineReason.BAD_UID),
        ({"SeriesInstanceUID": None}, 0xC001, QuarantineReason.BAD_UID),
        ({"SOPInstanceUID": "1.2.3.4.5"}, 0xA901, QuarantineReason.MISMATCH),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, 0xA901, QuarantineReason.MISMATCH),
    ],
)
def test_a_data_set_that_is_not_what_the_request_says(
    node: RunningNode, elements: dict[str, str | None], status: int, reason: QuarantineReason
) -> None:
    before = len(node.quarantined())
    with Peer(node.port) as peer:
        peer.associate([(CR, [EXPLICIT])])
        answer = peer.store(1, CR, generate_uid() if elements else "", encoded(radiograph(**elements), EXPLICIT))
        if "SOPInstanceUID" not in elements and "SOPClassUID" not in elements:
            data_set = radiograph(**elements)
            answer = peer.store(1, CR, str(data_set.SOPInstanceUID), encoded(data_set, EXPLICIT))
        assert answer.status == status
        assert answer.comment
    assert node.quarantined()[-1].reason == reason
    assert len(node.quarantined()) > before


def test_garbage_instead_of_a_data_set(node: RunningNode) -> None:
    uid = str(generate_uid())
    with Peer(node.port) as peer:
        peer.associate([(CR, [EXPLICIT])])
        answer = peer.store(1, CR, uid, b"\xff" * 1000)
    assert answer.status == 0xC000
    assert node.quarantined()[-1].reason == QuarantineReason.UNREADABLE
    assert not [row for row in node.instances() if row.sop_instance_uid == uid]


def test_the_class_of_the_request_must_be_that_of_the_context(node: RunningNode) -> None:
    data_set = radiograph()
    with Peer(node.port) as peer:
        peer.associate([(CR, [EXPLICIT])])
        answer = peer.store(1, "1.2.840.10008.5.1.4.1.1.2", str(data_set.SOPInstanceUID), encoded(data_set, EXPLICIT))
        assert answer.status == 0xA900
        assert peer.store(1, CR, str(data_set.SOPInstanceUID), encoded(data_set, EXPLICIT)).status == 0


def test_another_patient_in_a_known_study_is_quarantined(node: RunningNode) -> None:
    first = radiograph()
    second = radiograph(StudyInstanceUID=first.StudyInstanceUID, PatientID="SOMEBODY-ELSE")
    third = radiograph(SeriesInstanceUID=first.SeriesInstanceUID)
    assert send(node, first, second, third) == [0x0000, 0xC003, 0xC003]
    assert node.quarantined()[-1].reason == QuarantineReason.MISMATCH


def test_our_own_document_that_comes_back_is_no_input(node: RunningNode) -> None:
    report = radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR")
    study = radiograph()
    send(node, study)
    with node.database.write() as session:
        pk = session.query(Study.id).filter_by(study_instance_uid=study.StudyInstanceUID).scalar()
        now = node.instances()[-1].received_at
        result = Result(study_pk=pk, revision=1, outcome=Outcome.FINDINGS_ONLY, created_at=now)
        session.add(result)
        session.flush()
        session.add(
            Document(
                result_pk=result.id,
                kind="reading",
                sop_instance_uid=report.SOPInstanceUID,
                sop_class_uid=report.SOPClassUID,
                series_instance_uid=report.SeriesInstanceUID,
                path="x",
                sha256="x",
            )
        )
    files = set(node.files())
    assert send(node, report) == [0x0000]
    assert set(node.files()) == files
    assert report.SOPInstanceUID not in [row.sop_instance_uid for row in node.instances()]


def _close(node: RunningNode, data_set: Dataset, state: StudyState) -> None:
    with node.database.write() as session:
        session.query(Study).filter_by(study_instance_uid=data_set.StudyInstanceUID).update({"state": state})


@pytest.mark.parametrize("state", [StudyState.COMPLETE, StudyState.ANALYSED])
def test_a_late_image_reopens_its_study_and_a_late_report_does_not(node: RunningNode, state: StudyState) -> None:
    first = radiograph()
    same = {"StudyInstanceUID": first.StudyInstanceUID}
    send(node, first)
    _close(node, first, state)
    assert send(node, radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", **same)) == [0]
    assert (study_of(node, first).state, study_of(node, first).revision) == (state, 1)
    assert send(node, first) == [0]
    assert study_of(node, first).state == state, "a duplicate is not a late image"
    assert send(node, radiograph(**same)) == [0]
    assert (study_of(node, first).state, study_of(node, first).revision) == (StudyState.OPEN, 2)


def test_fragments_of_any_size_and_pdus_in_any_cut(node: RunningNode) -> None:
    """One byte per TCP segment, and many values in one PDU, are the same message."""
    data_set = radiograph()
    data = encoded(data_set, EXPLICIT)
    from tests.support.scripted_peer import store_rq

    with Peer(node.port) as peer:
        peer.associate([(CR, [EXPLICIT])])
        for byte in store_rq(1, CR, str(data_set.SOPInstanceUID), data):
            peer.send(bytes([byte]))
        assert peer.response().status == 0
        other = radiograph()
        other_data = encoded(other, EXPLICIT)
        whole = store_rq(1, CR, str(other.SOPInstanceUID), b"")
        head = whole[:-12]  # the command's PDU without the empty data set's
        values = b"".join(
            struct.pack(">IBB", len(piece) + 2, 1, 2 if last else 0) + piece
            for piece, last in (
                (other_data[:7], False),
                (b"", False),
                (other_data[7:100], False),
                (other_data[100:], True),
            )
        )
        peer.send(head + struct.pack(">BBI", 4, 0, len(values)) + values)
        assert peer.response().status == 0
    rows = {row.sop_instance_uid: row for row in node.instances()}
    assert node.store.read_data_set(rows[data_set.SOPInstanceUID].path) == data
    assert node.store.read_data_set(rows[other.SOPInstanceUID].path) == other_data


def test_the_stored_file_is_a_dicom_file_that_pydicom_reads(node: RunningNode) -> None:
    from pydicom import dcmread

    data_set = radiograph(PatientName="Müller^Jörg")
    send(node, data_set)
    read = dcmread(node.store.path(node.instances()[-1].path))
    assert read.file_meta.MediaStorageSOPInstanceUID == data_set.SOPInstanceUID
    ours, theirs = BytesIO(), BytesIO()
    dcmwrite(ours, read, enforce_file_format=True)
    dcmwrite(theirs, data_set, enforce_file_format=True)
    assert read == data_set


def test_an_unknown_operation_is_answered(node: RunningNode) -> None:
    from tests.support.scripted_peer import command, p_data

    with Peer(node.port) as peer:
        peer.associate([(VERIFICATION, [IMPLICIT])])
        peer.send(p_data(1, 3, command({0x0002: VERIFICATION, 0x0100: 0x0021, 0x0110: 7, 0x0800: 0x0101})))
        assert peer.response().status == 0x0211
        assert peer.echo().status == 0
        peer.release()


def test_header_longer_than_what_is_kept_in_memory_is_indexed(tmp_path: Path) -> None:
    """A modality that writes half a megabyte of private data before the UIDs of study and series."""
    film = radiograph()
    film.add_new(0x00090010, "LO", "ACME")
    film.add_new(0x00091001, "OB", bytes(600_000))
    with running_node(tmp_path) as node:
        assert send(node, film) == [0x0000]
        (row,) = node.instances()
        assert (row.sop_instance_uid, row.rows) == (film.SOPInstanceUID, 8)
