"""The watch over the suite's logs sees what it should see."""

from __future__ import annotations

import logging
from pathlib import Path

from dicom_node.config import LoggingSection
from dicom_node.logs import configure, get_logger
from tests.support.delivery_node import PATIENT_ID, Clock, make_node, make_result
from tests.support.log_watch import OWN_FILE, LogWatch, WordSearch, leaks, patients_of


def own_lines(watch: LogWatch) -> list[bytes]:
    """Log lines of this process, in order; child processes of other tests may log at the same time."""
    return [line for path, line in watch.lines() if path.name == OWN_FILE]


def test_what_we_log_is_kept_even_after_a_command_set_up_logging_anew(log_watch: LogWatch) -> None:
    before = len(own_lines(log_watch))
    get_logger("dicom_node.test").info("one line")
    configure(LoggingSection())
    get_logger("dicom_node.test").warning("another line")
    logging.getLogger("pynetdicom").info("a library's line that a node never prints")
    kept = own_lines(log_watch)[before:]
    assert [b"one line" in line or b"another line" in line for line in kept] == [True, True]


def test_the_patients_of_an_index_are_known_and_found_in_a_log(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock())
    make_result(node)
    node.database.close()
    words = patients_of(tmp_path / "index.db")
    assert {PATIENT_ID, "Marchetti", "Ottavia"} <= words
    planted = [
        (tmp_path, f'timestamp=x level=info event="found {PATIENT_ID}"'.encode()),
        (tmp_path, f"timestamp=x level=info event=y uid=1.2.{PATIENT_ID}.4".encode()),
        (tmp_path, b"timestamp=x level=warning event=y who=Marchetti^Ottavia"),
    ]
    found = leaks(planted, WordSearch(words))
    assert len(found) == 2, "a UID that holds the digits by chance is none"
