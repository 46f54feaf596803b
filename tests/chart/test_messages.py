"""Results and orders of HL7 messages: what is read of them, and what is counted instead of guessed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.chart.messages import ChartItem, ChartMessage, UnknownPart, chart_message
from dicom_node.chart.vocabulary import chart_vocabulary
from dicom_node.config import ChartSection
from dicom_node.config.chart import LAB_NAMES, TREATMENT_NAMES, SiteCode
from dicom_node.hl7.syntax import Hl7Error, segments
from dicom_node.hl7.times import clock_time
from dicom_node.report.wording.catalogue import catalogue, languages
from tests.support.chart_messages import lab, order
from training.phantom.process import LAB_TRENDS, STAYS, TREATMENTS


def read(message: str, section: ChartSection | None = None) -> ChartMessage:
    return chart_message(segments(message.encode(), charset="utf-8"), chart_vocabulary(section or ChartSection()))


def item_of(message: str, section: ChartSection | None = None) -> ChartItem:
    result = read(message, section)
    assert result.unknown == []
    (item,) = result.items
    return item


@pytest.mark.parametrize(
    ("sent", "name", "value"),
    [
        ({"value": "184"}, "CRP", 184),
        ({"value": "18.4", "unit": "mg/dL"}, "CRP", 184),
        ({"value": "1.2", "unit": "mg/dL", "code": "2160-0^Creatinine^LN"}, "creatinine", 106.104),
        ({"value": "12.5", "unit": "10*3/uL", "code": "WBC^^L^6690-2^Leukocytes^LN"}, "leukocytes", 12.5),
        ({"value": "850", "unit": "ng/L", "code": "30934-4^BNP^LN"}, "BNP", 850),
    ],
)
def test_loinc_and_ucum_are_understood(sent: dict[str, str], name: str, value: float) -> None:
    item = item_of(lab(**sent))
    assert (item.name, item.flag, item.patient) == (name, "HH", ("P1", "HOSP"))
    assert item.value == pytest.approx(value)
    assert (item.begins, item.known) == (clock_time("20260301080000"), clock_time("20260301084500"))


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        ({"code": "L0815^CRP^HIS"}, UnknownPart(kind="lab", code="L0815", system="HIS")),
        ({"unit": "furlong"}, UnknownPart(kind="unit", code="furlong")),
        ({"unit": ""}, UnknownPart(kind="unit")),
        ({"value": "about 180"}, UnknownPart(kind="value", code="1988-5", system="LN")),
        ({"value": "1e400"}, UnknownPart(kind="value", code="1988-5", system="LN")),
        ({"value": "10^-^20", "kind": "SN"}, UnknownPart(kind="value", code="1988-5", system="LN")),
        ({"taken": "yesterday"}, UnknownPart(kind="time", code="1988-5", system="LN")),
        ({"patient": ""}, UnknownPart(kind="patient")),
        ({"code": "Mrs Jane Doe^^HIS"}, UnknownPart(kind="lab", code="(not a plain code)", system="HIS")),
    ],
)
def test_what_is_not_understood_is_named_and_left_out(sent: dict[str, str], part: UnknownPart) -> None:
    result = read(lab(**sent))
    assert result.items == []
    assert result.unknown == [part]


def test_a_sites_own_codes_and_units() -> None:
    section = ChartSection(
        labs=(SiteCode(code="L0815", system="HIS", means="CRP"),),
        units=(SiteCode(code="MG/DL", means="mg/dL"),),
        treatments=(SiteCode(code="EXT", means="extubation planned"),),
    )
    assert item_of(lab("2", code="L0815^CRP^HIS", unit="MG/DL"), section).value == 20
    assert read(lab(code="L0815^CRP^OTHER"), section).items == []
    assert item_of(order(code="EXT^Extubation^ANY"), section).name == "extubation planned"
    with pytest.raises(ValueError, match="'troponin' is not known; allowed are CRP"):
        ChartSection(labs=(SiteCode(code="L1", means="troponin"),))
    with pytest.raises(ValueError, match="APPLICATION\\^FACILITY"):
        ChartSection(senders=("LAB",))


def test_preliminary_results_are_none_and_corrections_count_from_when_they_came() -> None:
    assert read(lab(status="P")).items == []
    corrected = item_of(lab("90", status="C", at="20260301120000"))
    assert corrected.known == clock_time("20260301120000")
    assert corrected.key == item_of(lab()).key
    for status in "DWX":
        assert item_of(lab(status=status)).is_withdrawn
    late = item_of(lab(reported="20260301070000"))
    assert late.known == late.begins, "no result is known before its sample is taken"


def test_orders() -> None:
    given_drug = item_of(order(ends="20260305070000"))
    assert (given_drug.name, given_drug.ends) == ("diuretics", clock_time("20260305070000"))
    assert (given_drug.begins, given_drug.known) == (clock_time("20260301070000"), clock_time("20260301060000"))
    cancelled = item_of(order("DC", code="", placed="20260302090000"))
    assert (cancelled.key, cancelled.ends) == (given_drug.key, clock_time("20260302090000"))
    assert read(order(code="N02BE01^Paracetamol^ATC")).unknown == [
        UnknownPart(kind="treatment", code="N02BE01", system="ATC")
    ]
    assert read(order(number="")).unknown == [UnknownPart(kind="order", code="NW")]


def test_a_date_without_a_time_is_the_days_end() -> None:
    moment = clock_time("20260301")
    assert moment is not None
    assert moment.text == "20260301235959"
    assert clock_time("20260229080000") is None
    berlin, utc = clock_time("20260301100000+0100"), clock_time("20260301093000+0000")
    assert berlin is not None
    assert utc is not None
    assert utc.is_after(berlin)


def test_names_are_those_that_the_courses_teach_and_have_words() -> None:
    taught = {*TREATMENTS, *(stay.planned for stay in STAYS.values())} - {"chest_tube"}
    assert set(TREATMENT_NAMES) == taught
    assert set(LAB_NAMES) == set(LAB_TRENDS)
    vocabulary = chart_vocabulary(ChartSection())
    assert set(vocabulary.labs) == set(LAB_NAMES)
    assert set(vocabulary.treatments) == set(TREATMENT_NAMES)
    for language in languages():
        messages = catalogue(language).messages
        assert all(f"lab.{name}" in messages for name in LAB_NAMES)
        assert all(f"treatment.{name}" in messages for name in TREATMENT_NAMES)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_no_field_breaks_the_reader(value: str, code: str, unit: str) -> None:
    try:
        result = read(lab(value, code=code, unit=unit))
    except (Hl7Error, UnicodeEncodeError):
        return
    assert all(item.value is None or abs(item.value) < 1e16 for item in result.items)
