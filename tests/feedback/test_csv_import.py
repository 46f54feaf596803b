"""Feedback from a CSV table: rows become words once; every rejected row is named with line and reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import UsageError
from dicom_node.feedback.csv_import import import_table
from dicom_node.index.tables.core import Feedback
from tests.support.delivery_node import ACCESSION, PATIENT_ID
from tests.support.reporting import STUDY, add_study, receive, report_sr, reporting_node, words

HEADER = "study_instance_uid,accession_number,patient_id,finding,aspect,verdict,value,author"
GOOD = (
    f"{STUDY},,,pneumothorax,presence,correct,present,Dr A",
    f",{ACCESSION},{PATIENT_ID},pleural_effusion,change,agree,,Dr A",
)


def table(*rows: str, header: str = HEADER) -> str:
    return "\n".join((header, *rows)) + "\n"


def test_rows_become_words_once(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        for expected in ((2, 0), (0, 2)):
            with node.database.write() as session:
                made = import_table(session, table(*GOOD), now=node.clock())
            assert (made.added, made.known, made.rejected) == (*expected, [])
        assert words(node) == {
            ("pneumothorax", "presence"): ("absent", "correct", "present"),
            ("pleural_effusion", "change"): ("new", "agree", ""),
        }
        with node.database.read() as session:
            row = session.scalars(select(Feedback)).first()
        assert row is not None
        assert (row.source, row.author, row.role) == ("csv", "Dr A", "radiologist")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1.2.3,,,pneumothorax,presence,agree,,Dr A", "no study 1.2.3"),
        (f"{STUDY},,,gout,presence,agree,,Dr A", "'gout'"),
        (f"{STUDY},,,pneumothorax,colour,agree,,Dr A", "aspect is one of presence"),
        (f"{STUDY},,,pneumothorax,presence,correct,maybe,Dr A", "allowed: present, absent"),
        (f"{STUDY},,,pneumothorax,presence,agree,,", "author"),
        (f"{STUDY},,,fracture,presence,agree,,Dr A", "says nothing of fracture"),
        (f",{ACCESSION},,pneumothorax,presence,agree,,Dr A", "patient_id"),
        (f",{ACCESSION},OTHER,pneumothorax,presence,agree,,Dr A", "no studies"),
        (f"{STUDY},,OTHER,pneumothorax,presence,agree,,Dr A", "another patient"),
        (f"{STUDY},,,pneumothorax,presence,agree,,Dr A,more", "fields"),
    ],
)
def test_rejected_rows_are_named_and_the_others_taken(tmp_path: Path, row: str, why: str) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        with node.database.write() as session:
            made = import_table(session, table(GOOD[0], row, GOOD[1]), now=node.clock())
        assert made.added == 2
        ((line, reason),) = made.rejected
        assert line == 3
        assert why in reason


@pytest.mark.parametrize("header", [HEADER + ",shoe_size", HEADER.replace(",author", ""), HEADER + ",author"])
def test_wrong_header_is_refused(tmp_path: Path, header: str) -> None:
    with reporting_node(tmp_path) as (node, _clock), node.database.write() as session, pytest.raises(UsageError):
        import_table(session, table(header=header), now=node.clock())


def test_semicolons_and_byte_order_mark(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        text = "\ufeff" + table(*GOOD).replace(",", ";")
        with node.database.write() as session:
            assert import_table(session, text, now=node.clock()).added == 2


def test_commands(tmp_path: Path) -> None:
    """`feedback import`, `list` and `agreement` as a person calls them."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}/data"\n[database]\nurl = "sqlite:///{tmp_path}/index.db"\n', "utf-8"
    )
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report_sr(study_uid="1.2.3.9", AccessionNumber="ACC-9"))
        from tests.support.reporting import read_reports

        read_reports(node)
    file = tmp_path / "words.csv"
    file.write_text(table(*GOOD, "1.2.3,,,pneumothorax,presence,agree,,Dr A"), "utf-8")
    run = CliRunner()
    answer = run.invoke(app, ["feedback", "import", str(file), "--config", str(config)])
    assert answer.exit_code == 1, answer.output
    assert "2 added, 0 known already, 1 rejected" in answer.output
    assert "line 4: no study 1.2.3" in answer.output
    listed = json.loads(run.invoke(app, ["feedback", "list", "--json", "--config", str(config)]).output)
    assert [(line["state"], line["study_instance_uid"]) for line in listed["reports"]] == [("unmatched", "1.2.3.9")]
    shown = json.loads(run.invoke(app, ["feedback", "agreement", "--json", "--config", str(config)]).output)
    by_finding = {line["finding"]: line for line in shown["presence"]}
    assert by_finding["pneumothorax"]["radiologist_only"] == 1
    assert by_finding[""]["judged"] == 1
    assert [line["agree"] for line in shown["change"] if line["finding"] == "pleural_effusion"] == [1]
    text = json.loads(run.invoke(app, ["feedback", "show", "1", "--config", str(config)]).output)
    assert text["labels"][0]["rule"]
