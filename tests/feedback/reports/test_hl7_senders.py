"""HL7 v2 as real senders write it: line ends, blank lines, escapes, markup, character sets, and what a log may hold."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.config import LoggingSection
from dicom_node.feedback.reports.hl7_message import Hl7Error, acknowledgement, envelope, reports_of
from dicom_node.logs import configure
from model.labeller.report import read_report
from tests.feedback.reports.test_hl7 import listening
from tests.support.delivery_node import START
from tests.support.reporting import MllpPeer, oru, reports

HEAD = "MSH|^~\\&|RIS|H|NODE|H|20260102||ORU^R01|C1|P|2.3"
PID = "PID|1||P1^^^H||SECRETNAME^JANE|MOTHERSNAME|19700101|F"
OBR = "OBR|1|PL1|F1|CXR|||20260102"
OBX = "OBX|1|TX|18748-4^Report^LN||{}||||||{}"


def message(text: str, *, end: str = "\r", status: str = "F", obr_status: str = "", head: str = HEAD) -> bytes:
    obr = OBR + "|" * 18 + obr_status
    return (end.join((head, PID, obr, OBX.format(text, status))) + end).encode()


def one(data: bytes, *, charset: str = "utf-8") -> dict[str, Any]:
    (values,) = reports_of(data, charset=charset)
    return values


@pytest.mark.parametrize("inside", ["\n", "\r\n", "\r", "\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("end", ["\r", "\r\n", "\n", "\r\r", "\r\n\r\n", "\n\n"])
def test_segment_ends_and_line_breaks_inside_a_field_are_told_apart(end: str, inside: str) -> None:
    text = f"FINDINGS:{inside}There was a right pneumothorax{inside}which has resolved.{inside}P|Q"
    values = one(message(text.replace("|", "\\F\\"), end=end, status="P"))
    lines = [line for line in values["text"].split("\n") if line]
    assert lines == ["FINDINGS:", "There was a right pneumothorax", "which has resolved.", "P|Q"]
    assert values["reason"] == "result status P is not final", "the status behind the text is read"


def test_blank_lines_between_segments_are_passed_over() -> None:
    data = b"\n".join((b"", message("No pneumothorax."), b"", b"NTE|1||x\r"))
    assert one(data)["text"] == "No pneumothorax."


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("Large effusion.\\X000d\\\\X0A\\No pneumothorax.", "Large effusion.\nNo pneumothorax."),
        ("Large effusion.\\X00\\No pneumothorax.", "Large effusion.No pneumothorax."),
        ("Large effusion.\x00No pneumothorax.", "Large effusion.No pneumothorax."),
        ("Large effusion.\\.BR\\No pneumothorax.", "Large effusion.\nNo pneumothorax."),
        ("Large effusion.\\.br\\No pneumothorax.", "Large effusion.\nNo pneumothorax."),
        ("Large effusion.\\.sp+1\\No pneumothorax.", "Large effusion.\nNo pneumothorax."),
        ("Large effusion.\\Zbr\\No pneumothorax.", "Large effusion. No pneumothorax."),
        ("\\H\\Large\\N\\ effusion.", "Large effusion."),
        ("Left \\T\\ right; a \\F\\ b; C:\\reports\\doe", "Left & right; a | b; C:\\reports\\doe"),
        ("<p>Large effusion.</p><p>No pneumothorax &lt; 1 cm.</p>", "Large effusion.\n\nNo pneumothorax < 1 cm."),
        ("Large effusion.<BR/>No pneumothorax.", "Large effusion.\nNo pneumothorax."),
        ("<ul><li>Effusion</li><li>No edema</li></ul>", "- Effusion\n\n- No edema"),
        ("{\\rtf1\\ansi{\\fonttbl{\\f0 Arial;}}\\f0 Large effusion.\\par No edema.}", "Large effusion.\nNo edema."),
        ("{\\E\\rtf1\\E\\ansi\\E\\b Large\\E\\b0  effusion.\\E\\par No edema.}", "Large effusion.\nNo edema."),
        ("effusion < 1 cm and > 3 mm", "effusion < 1 cm and > 3 mm"),
        ("Large effusion.~No pneumothorax.", "Large effusion.\nNo pneumothorax."),
    ],
)
def test_escapes_and_markup_become_lines(sent: str, kept: str) -> None:
    assert one(message(sent))["text"].strip() == kept


@pytest.mark.parametrize(("kind", "document"), [("RTF", "{\\rtf1 No edema.\\par}"), ("HTML", "<p>No edema.</p>")])
def test_encapsulated_text_is_read(kind: str, document: str) -> None:
    coded = base64.b64encode(document.encode()).decode()
    values = one(message(f"RIS^TEXT^{kind}^Base64^{coded}").replace(b"|TX|", b"|ED|"))
    assert values["text"].strip() == "No edema."


@pytest.mark.parametrize(
    ("named", "encoding"),
    [
        *((f"8859/{part}", f"iso-8859-{part}") for part in (1, 2, 3, 4, 9, 15)),
        ("ISO-8859-1", "iso-8859-1"),
        ("ISO_IR 100", "iso-8859-1"),
        ("ISO IR100", "iso-8859-1"),
        ("UTF8", "utf-8"),
        ("utf-8", "utf-8"),
        ("UNICODE UTF-8", "utf-8"),
        ("ISO IR192", "utf-8"),
        ("WINDOWS-1252", "cp1252"),
        ("CP1252", "cp1252"),
        ("GB 18030-2000", "gb18030"),
        ("8859/1~UNICODE UTF-8", "iso-8859-1"),
    ],
)
def test_names_of_character_sets(named: str, encoding: str) -> None:
    data = message("Größe unverändert.".encode(encoding).decode("latin-1"), head=f"{HEAD}||||||{named}")
    assert one(data.decode().encode("latin-1"), charset="ascii")["text"] == "Größe unverändert."


@pytest.mark.parametrize(
    ("obr", "obx", "reason"),
    [
        ("", "F", ""),
        ("", "", ""),
        ("F", "F", ""),
        ("C", "F", ""),
        ("F", "", ""),
        ("", "C", ""),
        ("", "P", "result status P is not final"),
        ("P", "F", "result status P is not final"),
        ("F", "R", "result status R is not final"),
        ("X", "F", "cancelled by its sender (status X)"),
        ("F", "D", "cancelled by its sender (status D)"),
    ],
)
def test_final_is_what_both_statuses_say(obr: str, obx: str, reason: str) -> None:
    assert one(message("No edema.", status=obx, obr_status=obr))["reason"] == reason


def test_deleted_part_is_left_out() -> None:
    data = message("No edema.") + OBX.format("Large effusion.", "D").encode() + b"\r"
    assert one(data)["text"] == "No edema."


def test_each_report_has_its_own_patient() -> None:
    second = message("Edema.").split(b"\r", 1)[1].replace(b"P1^^^H", b"P2^^^H")
    found = reports_of(message("No edema.") + second, charset="utf-8")
    assert [values["patient_ids"] for values in found] == [[["P1", "H"]], [["P2", "H"]]]


def test_whole_class_of_messages_is_acknowledged(tmp_path: Path) -> None:
    """By the listener itself, one connection, each stored without NUL; a frame without its last carriage return too."""
    texts = [
        "No edema.\nNo mass.",
        "No edema.\\X00\\",
        "<b>No</b> edema.",
        "C:\\x\\y No edema.\\Zq\\",
        "No\r\n\r\nedema.",
    ]
    with listening(tmp_path) as (node, _clock, port), MllpPeer(port) as peer:
        for number, text in enumerate(texts):
            assert peer.ask(oru(text.replace("\n", "\\X0A\\"), filler=f"F{number}")) == "MSA|AA|MSG1|"
        peer.send(b"\x0b" + oru(filler="LAST").encode() + b"\x1c", framed=False)
        assert "MSA|AA|" in peer.answer()
        assert len(reports(node)) == len(texts) + 1
        assert not any("\x00" in row.text + row.author for row in reports(node))


def test_oversized_message_is_refused_by_its_own_id(tmp_path: Path) -> None:
    with listening(tmp_path, max_message_kib=4) as (_node, _clock, port), MllpPeer(port) as peer:
        assert peer.ask(oru("x" * 200_000)).startswith("MSA|AR|MSG1|a message has at most 4 KiB")


HOSTILE = [
    message("No edema.", end="\n", head="MSH|^~\\&|RIS|H|N|H|20260102||ORU^R01"),
    message("No edema.", end="\x0c"),
    message("No edema.", end=""),
    message("No edema.", end="\x1e", head="MSH|^~\\&|RIS|H|N|H|20260102||ORU^R01"),
    message("No edema.", head="MSH|^~\\&|RIS|H|N|H|20260102||ORU^R01"),
    message("See C:\\reports\\SECRETNAME, \\Zxx\\ \\P\\ \\M2442\\ \\Xzz\\ SECRETNAME."),
    message("SECRETNAME\x80").replace(b"\xc2", b""),
    message("", end="\n"),
    b"MSH|^~\\&" + PID.encode(),
    b"MSH|" + PID.encode() + b"\r",
]


@pytest.mark.parametrize("data", HOSTILE)
def test_no_patient_in_log_or_acknowledgement(data: bytes) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    configure(LoggingSection(), stream=out)
    logging.getLogger().addHandler(handler)
    try:
        words = ""
        try:
            found = reports_of(data, charset="utf-8")
        except Hl7Error as error:
            words = str(error)
        else:
            assert found[0]["text"]
        answer = acknowledgement(envelope(data), "AE", words, now=START).decode()
    finally:
        logging.getLogger().removeHandler(handler)
    for secret in ("SECRETNAME", "MOTHERSNAME", "19700101", "JANE"):
        assert secret not in words + answer + out.getvalue()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200), st.sampled_from(["\r", "\n", "\r\n"]))
def test_any_text_is_taken_and_readable(text: str, end: str) -> None:
    sent = text.replace("\\", "\\E\\").replace("|", "\\F\\").replace("~", "\\R\\").replace("&", "\\T\\")
    data = message("Report: " + sent.replace("^", "\\S\\").replace("\n", "\\X0A\\").replace("\r", " "), end=end)
    values = one(data)
    assert values["text"].startswith("Report:")
    assert not any(c < " " and c not in "\n\t" for c in values["text"])
    read_report(values["text"])
