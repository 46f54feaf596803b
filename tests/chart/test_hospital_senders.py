"""Results and orders as laboratories and wards really send them: what of it is told, counted, or refused in words."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_node.chart.messages import UnknownPart
from dicom_node.chart.not_understood import unknown_parts
from dicom_node.hl7.syntax import Hl7Error
from dicom_node.hl7.times import clock_time
from dicom_node.index.tables.chart import ChartEntry
from dicom_node.report.render.text import as_text
from tests.chart.test_messages import item_of, read
from tests.chart.test_service import header_at, known_labs, known_to, listening
from tests.support.chart_messages import SENDER, lab, order
from tests.support.report_cases import kinds
from tests.support.reporting import reports

ON_BOTH = pytest.mark.usefixtures("each_index")
"""Run on SQLite and on PostgreSQL."""
CODE = {"code": "1988-5", "system": "LN"}


@pytest.mark.parametrize(
    ("kind", "sent", "comparator", "value"),
    [
        ("NM", "<5", "<", 5),
        ("NM", "> 300", ">", 300),
        ("NM", "+12.50", "", 12.5),
        ("ST", "184", "", 184),
        ("ST", "<0.6", "<", 0.6),
        ("SN", "^184", "", 184),
        ("SN", "=^184", "", 184),
        ("SN", "<=^5", "<=", 5),
    ],
)
def test_a_number_is_read_in_each_usual_form(kind: str, sent: str, comparator: str, value: float) -> None:
    item = item_of(lab(sent, kind=kind))
    assert (item.comparator, item.value) == (comparator, value)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("NM", "18,4"),
        ("NM", "1.234,5"),
        ("NM", "184~190"),
        ("NM", ""),
        ("NM", "1E2"),
        ("NM", "NaN"),
        ("NM", "184 mg/L"),
        ("ST", "hemolysed"),
        ("ST", "10-20"),
        ("SN", "^10^-^20"),
        ("SN", "~^184"),
        ("SN", "ca.^184"),
    ],
)
def test_a_value_that_could_be_read_in_two_ways_is_counted_and_left_out(kind: str, sent: str) -> None:
    result = read(lab(sent, kind=kind))
    assert (result.items, result.unknown) == ([], [UnknownPart(kind="value", **CODE)])


def test_a_text_under_a_code_that_is_not_known_is_no_value_at_all() -> None:
    result = read(lab("negative", kind="ST", code="L99^Culture^HIS"))
    assert (result.items, result.unknown) == ([], [])


@pytest.mark.parametrize("unit", ["10*9/L", "10\\S\\9/L", "G/l^^L^10*9/L^^UCUM", "/nL^per nanolitre^UCUM"])
def test_a_unit_is_ucum_in_either_of_its_places(unit: str) -> None:
    assert item_of(lab("12.5", code="6690-2^Leukocytes^LN", unit=unit)).value == 12.5


@pytest.mark.parametrize(
    ("sent", "patient"),
    [
        ("4711^^^STATE^NI~P1^^^HOSP^MR", ("P1", "HOSP")),
        ("V1^^^HOSP^VN~P1^^^HOSP&1.2.3&ISO^PI", ("P1", "HOSP")),
        ("^^^HOSP^MR~P1^^^HOSP", ("P1", "HOSP")),
        ("P1^^^HOSP~P2^^^OTHER", ("P1", "HOSP")),
    ],
)
def test_the_patient_is_the_one_whom_images_are_filed_under(sent: str, patient: tuple[str, str]) -> None:
    assert item_of(lab(patient=sent)).patient == patient


def test_segments_in_an_unusual_order_with_others_between_them_are_read() -> None:
    msh, pid, obr, obx, _ = lab().split("\r")
    orc, note, local, visit = "ORC|RE|A|F-1", "NTE|1|L|sample hemolysed", "ZLR|1|x", "PV1|1|I|W4"
    for message in (
        [msh, "SFT|x", pid, "PD1|", visit, orc, obr, note, local, obx, note],
        [msh, visit, pid, obx],
        [msh, pid, obx, obr],
    ):
        assert item_of("\r".join(message)).value == 184
    assert item_of("\n".join([msh, pid, obr, obx])).value == 184
    assert item_of("\r\n".join(["", msh, pid, "", obr, obx])).value == 184
    for broken in ([msh, obr, obx], [msh.replace("20260301084600", ""), pid, obr, obx]):
        with pytest.raises(Hl7Error):
            read("\r".join(broken))


def test_one_message_with_several_patients_orders_and_values() -> None:
    msh, pid, obr, obx, _ = lab().split("\r")
    bnp = obx.replace("1988-5^C reactive protein", "30934-4^BNP").replace("184|mg/L", "35000|pg/mL")
    second = [pid.replace("P1^^^HOSP", "P2^^^HOSP"), obr.replace("F-1", "F-2"), obx.replace("184", "9")]
    result = read("\r".join([msh, pid, obr, obx, bnp, *second]))
    assert [(one.patient[0], one.name, one.value) for one in result.items] == [
        ("P1", "CRP", 184),
        ("P1", "BNP", 35000),
        ("P2", "CRP", 9),
    ]


def test_the_messages_zone_is_that_of_every_time_in_it() -> None:
    item = item_of(lab(at="20260301084600+0100", reported="20260301074500+0000"))
    assert item.begins == clock_time("20260301080000+0100")
    assert item.known == clock_time("20260301074500+0000")


def test_a_drug_ends_when_the_cancellation_takes_effect() -> None:
    stopped = order("DC", code="", placed="20260302090000")
    fields = stopped.replace("|||||||20260302090000", "|||||||20260302090000||||||20260302180000")
    assert item_of(stopped).ends == clock_time("20260302090000")
    assert item_of(fields).ends == clock_time("20260302180000")
    for control in ("CA", "OC", "OD", "HD"):
        assert item_of(order(control)).ends is not None


def test_times_of_image_and_laboratory_are_compared_in_utc_where_both_state_a_zone(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, peer):
        peer.ask(lab(at="20260301084600+0100"))  # known at 07:45 UTC
        for taken, zone, is_told in (
            ("20260301083000", "+0000", True),
            ("20260301083000", "+0100", False),
            ("20260301023000", "-0500", False),
            ("20260301030000", "-0500", True),
            ("20260301083000", "", False),
        ):
            header = header_at(taken)
            if zone:
                header.TimezoneOffsetFromUTC = zone
            assert bool(known_labs(node, header)) is is_told, (taken, zone)


CHANGED = lab("90", at="20260301093000")
"""Another value under the status and the report time of the first: some laboratories correct so."""
AGAIN = lab("184", at="20260301110000")


@ON_BOTH
@pytest.mark.parametrize("messages", list(itertools.permutations((lab(), CHANGED))))
def test_a_value_changed_without_a_word_counts_from_the_message_that_changed_it(
    tmp_path: Path, messages: tuple[str, ...]
) -> None:
    with listening(tmp_path) as (node, _clock, peer):
        for message in messages:
            peer.ask(message)
        assert known_labs(node, header_at("20260301091500")) == {}, "184 was believed then, and was wrong"
        assert known_labs(node, header_at("20260301100000")) == {"CRP": "90 mg/L very high"}


@ON_BOTH
@pytest.mark.parametrize("messages", list(itertools.permutations((lab(), lab(status="W", at="20260301093000"), AGAIN))))
def test_a_withdrawn_value_that_is_sent_again_counts_from_then(tmp_path: Path, messages: tuple[str, ...]) -> None:
    with listening(tmp_path) as (node, _clock, peer):
        for message in messages:
            peer.ask(message)
        assert known_labs(node, header_at("20260301100000")) == {}
        assert known_labs(node, header_at("20260301113000")) == {"CRP": "184 mg/L very high"}


def test_a_plan_is_ordered_and_a_drug_begun(tmp_path: Path) -> None:
    codes = {"treatments": [{"code": "EXT", "means": "extubation planned"}]}
    with listening(tmp_path, **codes) as (node, _clock, peer):
        peer.ask(order(code="EXT^Extubation^HIS"))
        known = known_to(node)
        assert known is not None
        for language, words in (("en", "extubation planned, ordered 3 h before."), ("de", ", angeordnet 3 h vorher.")):
            request = dataclasses.replace(kinds()["new"], chart=known.facts, language=language)
            assert words in " ".join(as_text(request).split())


def test_large_values_are_told_in_digits(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, peer):
        peer.ask(lab("35000", code="30934-4^BNP^LN", unit="pg/mL"))
        peer.ask(lab("<0.6", code="1988-5^CRP^LN", filler="F-2", flag="N"))
        assert known_labs(node) == {"BNP": "35000 pg/mL very high", "CRP": "<0.6 mg/L normal"}


@ON_BOTH
def test_a_laboratorys_remark_is_no_radiologists_report(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, peer):
        remark = "OBX|2|TX|REM^Remark^HIS||Suggests pneumonia.||||||F\r"
        assert peer.ask(lab() + remark).startswith("MSA|AA|")
        assert peer.ask(lab("<5", kind="ST", filler="F-2") + remark).startswith("MSA|AA|")
        assert reports(node) == []
        other = "OBR|2|PL|X-9|71020^Chest" + "|" * 21 + "F\r" + remark
        assert peer.ask(lab() + other).startswith("MSA|AA|")
        assert [row.text for row in reports(node)] == ["Suggests pneumonia."], "under an order of its own it is one"


def test_a_message_of_which_nothing_is_used_does_not_stop_the_senders_queue(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, peer):
        coded = lab("POS^Positive^L", kind="CWE", code="94500-6^SARS-CoV-2^LN")
        assert peer.ask(coded) == "MSA|AA|LAB1|"
        assert peer.ask(coded.replace("LAB|HOSPITAL", "RIS|HOSPITAL")).startswith("MSA|AE|"), "who is not heard is told"
        with node.database.read() as session:
            assert session.scalar(select(func.count(ChartEntry.id))) == 0
            assert unknown_parts(session) == []


def test_batches_trials_and_what_is_too_long_are_refused_in_words(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, peer):
        batch = f"FHS|^~\\&|LAB\rBHS|^~\\&|LAB\r{lab()}BTS|1\rFTS|1\r"
        assert "batch" in peer.ask(batch)
        assert "each in a frame" in peer.ask(lab() + lab())
        assert peer.ask(lab().replace("|P|2.5.1", "|T|2.5.1")).startswith("MSA|AR|")
        many = "".join(f"OBX|{n}|NM|1988-5^CRP^LN|{n}|{n}|mg/L|||||F|||20260301080000\r" for n in range(2, 2500))
        assert peer.ask(lab() + many).startswith("MSA|AA|"), "long, and within what is taken"
        with node.database.read() as session:
            assert session.scalar(select(func.count(ChartEntry.id))) == 2499
        limit = node.settings.hl7.max_message_kib
        assert f"at most {limit} KiB" in peer.ask(lab() + f"NTE|1||{'x' * 1024 * limit}\r")
        assert peer.answer() == "", "and the connection ends: the rest of the frame is no message"


@pytest.mark.parametrize("charset", ["8859/1", "UNICODE UTF-8", "8859/15", "WINDOWS-1252", "ISO IR100"])
def test_character_sets_of_msh_18(tmp_path: Path, charset: str) -> None:
    encoding = "utf-8" if "UTF" in charset else "latin-1"
    message = lab(patient="MÜ1^^^KÖLN").replace("|P|2.5.1", f"|P|2.5.1||||||{charset}").encode(encoding)
    with listening(tmp_path) as (node, _clock, peer):
        assert peer.ask(message).startswith("MSA|AA|")
        assert known_labs(node, header_at(patient="MÜ1", issuer="KÖLN")) != {}
        assert "KLINGON" in peer.ask(message.replace(charset.encode(), b"KLINGON"))


@ON_BOTH
def test_a_cancelled_order_is_not_told_whichever_message_came_first(tmp_path: Path) -> None:
    begun, cancelled = order(), order("CA", code="", placed="20260301063000")
    for number, messages in enumerate(itertools.permutations((begun, cancelled))):
        with listening(tmp_path / str(number)) as (node, _clock, peer):
            for message in (*messages, *messages):
                assert peer.ask(message).startswith("MSA|AA|")
            assert known_to(node) is None, SENDER
