"""`dicom-node backfill` as an administrator types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from sqlalchemy import select
from typer import Typer
from typer.testing import CliRunner

from dicom_node.cli import backfill
from dicom_node.cli.daily import status
from dicom_node.errors import UsageError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import AuditEvent
from tests.support.common import ANY_DISK

UIDS = ("1.2.3.1", "1.2.3.2")
app = Typer()
backfill.register(app)
status.register(app)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    archive = '[[query]]\nname = "pacs"\nport = 1\n'
    node = f'[node]\nport = 0\n{ANY_DISK}[database]\nurl = "sqlite:///index.db"\n'
    path.write_text(node + archive, "utf-8")
    return path


def run(config: Path, *arguments: str, given: str = "") -> str:
    done = CliRunner().invoke(app, [*arguments, "--config", str(config)], input=given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_is_started_watched_paused_resumed_and_reported(config: Path) -> None:
    said = run(
        config, "backfill", "start", "past", "--studies", "-", given=f"# two\n{UIDS[0]}\n\n{UIDS[1]}  # b\n{UIDS[0]}\n"
    )
    assert "0 of 2 studies ended" in said
    assert "not sent; results in the index only" in said
    assert "paused" in run(config, "backfill", "pause", "past")
    hours = "mon-fri 20:00-06:00; sat,sun 00:00-24:00"
    run(config, "backfill", "resume", "past", "--per-minute", "2", "--hours", hours, "--timezone", "Europe/Berlin")
    (values,) = json.loads(run(config, "backfill", "status", "--json"))
    assert (values["state"], values["left"], values["reports"]) == ("running", 2, False)
    assert values["limits"] == {"per_minute": 2.0, "at_once": 1, "hours": hours, "timezone": "Europe/Berlin"}
    # Two studies at two a minute take a minute of open time, and more by the clock, because the archive has its hours.
    assert values["seconds_left"] > 60
    rows = list(csv.DictReader(io.StringIO(run(config, "backfill", "report", "past"))))
    assert [(row["study_instance_uid"], row["state"]) for row in rows] == [(uid, "waiting") for uid in UIDS]
    assert "past running: 0 of 2 studies" in run(config, "status")
    assert "cancelled" in run(config, "backfill", "cancel", "past")
    database = Database(f"sqlite:///{config.parent}/index.db")
    with database.read() as session:
        audited = session.scalars(select(AuditEvent.event_id).where(AuditEvent.event_id == "110113")).all()
    database.close()
    assert len(audited) == 4, "started, paused, resumed and cancelled"


def test_a_run_over_dates_waits_month_by_month(config: Path) -> None:
    run(config, "backfill", "start", "past", "--from", "2024-01-15", "--to", "2024-03-10")
    (values,) = json.loads(run(config, "backfill", "status", "--json"))
    assert values["ranges"]["waiting"] == 3
    assert values["seconds_left"] is None, "nothing is known before a range was listed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "2024-01-01"], "give --from and --to"),
        (["--from", "2024-13-01", "--to", "2024-12-01"], "is no date; allowed is 2015-01-31"),
        (["--from", "2024-02-01", "--to", "2024-01-01"], "is after --to"),
        (["--studies", "-"], "line 1 is no UID"),
        (["--from", "2024-01-01", "--to", "2024-01-02", "--hours", "at night"], "allowed is HH:MM-HH:MM"),
        (["--from", "2024-01-01", "--to", "2024-01-02", "--timezone", "Bielefeld"], "IANA name"),
        (["--from", "2024-01-01", "--to", "2024-01-02", "--archive", "vna"], "there are pacs"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(config: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(config, "backfill", "start", "past", *arguments, given="no-uid\n")
    assert json.loads(run(config, "backfill", "status", "--json")) == []


def test_a_name_is_given_once_and_an_unknown_one_is_told(config: Path) -> None:
    run(config, "backfill", "start", "past", "--studies", "-", given=UIDS[0])
    with pytest.raises(UsageError, match="there is a run 'past' already"):
        run(config, "backfill", "start", "past", "--studies", "-", given=UIDS[0])
    with pytest.raises(UsageError, match="there are: past"):
        run(config, "backfill", "pause", "pest")
