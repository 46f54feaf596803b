"""The daily commands on a node's own files."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from sqlalchemy import select, update
from typer import Typer
from typer.testing import CliRunner

from dicom_node.cli import feedback, quarantine
from dicom_node.cli.daily import actions, lists, status
from dicom_node.cli.doctor import command as doctor
from dicom_node.cli.training import drift, models
from dicom_node.context import NodeContext
from dicom_node.errors import DeliveryError, NodeError, UsageError
from dicom_node.index.tables.core import Delivery, DeliveryState, Job, JobKind, JobState, Study
from tests.support.certificates import Authority
from tests.support.command_line import run_command
from tests.support.common import ANY_DISK, REPOSITORY, free_port
from tests.support.delivery_node import PATIENT_ID, Clock, deliveries, make_node, make_result, run_due
from tests.support.faulty_pacs import Pacs, running

app = Typer()
doctor.register(app)
for area in (actions, drift, feedback, lists, models, quarantine, status):
    area.register(app)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(
        f'{ANY_DISK}[node]\nport = 0\n[web]\nport = 0\n[database]\nurl = "sqlite:///index.db"\n'
        '[[destinations]]\nname = "pacs"\n'
        f'ae_title = "FAULTY"\nport = {free_port()}\n',
        "utf-8",
    )
    return path


@pytest.fixture
def node(tmp_path: Path) -> NodeContext:
    node = make_node(tmp_path, Clock(), {"name": "pacs", "ae_title": "FAULTY", "port": 1})
    make_result(node)
    return node


def run(config: Path, *arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, [*arguments, "--config", str(config)])
    assert done.exit_code == status, done.output
    return done.stdout


def test_status_studies_and_jobs_say_how_it_stands(config: Path, node: NodeContext) -> None:
    values = json.loads(run(config, "status", "--json", status=1))
    assert values["deliveries"] == {"pacs pending": 2}
    assert values["jobs"] == {"deliver ready": 2}
    (trouble,) = values["troubles"]  # no worker runs in this test, and the deliveries have been due for long
    assert "deliver jobs have waited" in trouble
    found = json.loads(run(config, "studies", "--search", PATIENT_ID, "--json"))
    assert found["total"] == 1
    assert json.loads(run(config, "studies", "--search", "nobody", "--json"))["total"] == 0
    assert len(json.loads(run(config, "jobs", "--json"))) == 2
    assert "Marchetti" in run(config, "studies")


def test_the_tables_speak_the_words_of_the_pages(config: Path, node: NodeContext) -> None:
    said = {command: run(config, command, status=command == "status") for command in ("status", "studies", "jobs")}
    assert "delivery: waiting" in said["status"]
    assert "pacs: waiting" in said["status"]
    assert "waiting: 2" in said["studies"]
    assert "no comparison" in said["studies"] or "compared" in said["studies"]
    with node.database.write() as session:
        session.execute(update(Job).values(state=JobState.DEAD, finished_at=node.clock()))
    said = {command: run(config, command, status=command == "status") for command in ("status", "studies", "jobs")}
    assert "failed, needs attention" in said["jobs"]
    assert "AI reading → pacs" in said["jobs"]
    assert "deliver:" not in said["jobs"], "the key of the row is no word for people"
    assert "delivery: failed, needs attention: 2; `dicom-node jobs` says why" in said["status"]
    for words in said.values():
        assert not re.search(r"\b(dead|pending|ready|confirmed|findings only)\b", words), words


def test_a_name_steers_neither_the_table_nor_the_terminal(config: Path, node: NodeContext) -> None:
    with node.database.write() as session:
        session.execute(update(Study).values(patient_name="[/b]:skull:^\x1b[2J\x9b1m", patient_id="[red]"))
        session.execute(update(Job).values(last_error="[/nonsense] \x1b]0;owned\x07"))
    for command in ("studies", "jobs"):
        said = run(config, command)
        assert not any(character in said for character in "\x1b\x07\x9b")
    assert "[/b]:skull:" in run(config, "studies")
    assert "([red])" in run(config, "studies")
    assert json.loads(run(config, "studies", "--json"))["studies"][0]["patient_id"] == "[red]"


LISTING = (
    *(["status"], ["studies"], ["jobs"], ["purge"], ["retry", "--all"], ["quarantine"]),
    *(["models", "list"], ["feedback", "list"], ["feedback", "agreement"]),
)
DAMAGES = {
    "unknown key": ("[node]\ncolour = 1\n", 2, "node.colour: unknown key; allowed here: ae_title"),
    "no such database": ('[database]\nurl = "mysql://u:secret@h/x"\n', 2, 'allowed are "sqlite:///FILE"'),
    "nobody answers": ('[database]\nurl = "postgresql+psycopg://u:secret@127.0.0.1:1/x"\n', 1, "refused"),
    "no folder": ('[database]\nurl = "sqlite:////proc/nowhere/index.db"\n', 1, "cannot be made"),
    "no index": ('[database]\nurl = "sqlite:///nonsense.db"\n', 1, "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", [["status"], ["studies"], ["doctor", "--without-model"]], ids=lambda c: c[0])
def test_what_is_wrong_is_said_as_json_where_json_was_asked_for(
    tmp_path: Path, command: list[str], damage: str
) -> None:
    text, status, words = DAMAGES[damage]
    (tmp_path / "nonsense.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "config.toml").write_text(text, "utf-8")
    done = run_command(*command, "--json", "--config", str(tmp_path / "config.toml"), folder=REPOSITORY)
    values = json.loads(done.stdout)
    assert words in json.dumps(values, ensure_ascii=False).replace('\\"', '"')
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_every_list_of_an_empty_node_is_json(config: Path) -> None:
    for command in LISTING:
        json.loads(run(config, *command, "--json"))


def test_a_dead_letter_is_trouble_until_it_is_retried(config: Path, node: NodeContext) -> None:
    with node.database.write() as session:
        session.execute(update(Job).values(state=JobState.DEAD, finished_at=node.clock()))
        session.execute(update(Delivery).values(state=DeliveryState.DEAD))
        first = session.scalars(select(Job.id)).first()
    assert json.loads(run(config, "status", "--json", status=1))["troubles"]
    assert len(json.loads(run(config, "retry", str(first), "--json"))["revived"]) == 1
    run(config, "retry", "--all")
    assert {row.state for row in deliveries(node)} == {DeliveryState.PENDING}
    run(config, "status")
    for wrong in (("retry",), ("retry", "--all", "1"), ("retry", "99999")):
        done = CliRunner().invoke(app, [*wrong, "--config", str(config)])
        assert isinstance(done.exception, UsageError)


def test_a_dead_delivery_can_be_ended_for_good(config: Path, node: NodeContext) -> None:
    def abandoned() -> set[int]:
        return {row.id for row in deliveries(node) if row.state is DeliveryState.ABANDONED}

    with node.database.write() as session:
        session.execute(update(Job).values(state=JobState.DEAD, finished_at=node.clock()))
        session.execute(update(Delivery).values(state=DeliveryState.DEAD))
        sent = session.scalars(select(Job.id).where(Job.kind == JobKind.DELIVER)).all()
    done = CliRunner().invoke(app, ["abandon", str(sent[0]), "99999", "--reason", "gone", "--config", str(config)])
    assert isinstance(done.exception, UsageError)
    assert not abandoned(), "one that cannot be abandoned leaves the others alone"
    keys = json.loads(run(config, "abandon", *map(str, sent), "--reason", "that archive is gone", "--json"))[
        "abandoned"
    ]
    assert len(keys) == len(sent) == len(abandoned())
    assert all(row.last_error.endswith("that archive is gone") for row in deliveries(node))
    assert json.loads(run(config, "retry", "--all", "--json"))["revived"] == []
    run(config, "status")


def test_a_study_is_sent_again_and_analysed_again(config: Path, node: NodeContext) -> None:
    with node.database.read() as session:
        study = session.scalars(select(Study)).one()
        uid = study.study_instance_uid
    assert "2" in run(config, "resend", uid)
    run(config, "reprocess", uid)
    with node.database.read() as session:
        kinds = session.scalars(select(Job.kind).where(Job.state == JobState.READY)).all()
    assert JobKind.ANALYSE in kinds
    for command in ("resend", "reprocess"):
        done = CliRunner().invoke(app, [command, "1.2.3.4", "--config", str(config)])
        assert isinstance(done.exception, UsageError | NodeError), command


def test_purge_shows_before_it_does(config: Path, node: NodeContext) -> None:
    assert json.loads(run(config, "purge", "--json")) == {"dry_run": True, "removed": 0, "plan": []}
    assert "would remove" in run(config, "purge")


def test_doctor_names_what_is_wrong_and_echo_what_is_accepted(config: Path) -> None:
    lines = {c["what"]: c for c in json.loads(run(config, "doctor", "--without-model", "--json", status=1))}
    assert lines["peer pacs"]["grade"] == "bad"
    assert "cannot be reached" in lines["peer pacs"]["text"]
    assert lines["data folder"]["grade"] == "good"
    assert lines["index"]["grade"] == "good"
    assert lines["pages"]["grade"] == "warning"
    assert lines["disk space"]["text"].endswith("%") or "below" in lines["disk space"]["text"]
    assert {"AE titles", "disk speed", "DICOM port", "web port", "clock"} <= set(lines)
    done = CliRunner().invoke(app, ["echo", "pacs", "--config", str(config)])
    assert isinstance(done.exception, DeliveryError)
    port = int(config.read_text("utf-8").rsplit("= ", 1)[1])
    with running(Pacs(), port=port):
        assert "storage commitment" in run(config, "echo", "pacs")
        run(config, "doctor", "--without-model")


def test_doctor_sees_what_else_is_asked_for(config: Path) -> None:
    closed = free_port()
    text = config.read_text("utf-8") + 'documents = ["reading", "pdf"]\n'
    text += f'[audit]\nhost = "127.0.0.1"\nport = {closed}\ntransport = "tcp"\n'
    config.write_text(text.replace('ae_title = "FAULTY"', 'ae_title = "LUMEN"'), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = taken.getsockname()[1]
        config.write_text(config.read_text("utf-8").replace("[node]\nport = 0", f"[node]\nport = {used}"), "utf-8")
        lines = {c["what"]: c for c in json.loads(run(config, "doctor", "--without-model", "--json", status=1))}
    assert lines["AE titles"]["grade"] == "bad", "a destination with our own title"
    assert lines["DICOM port"]["grade"] == "warning"
    assert lines["audit collector"]["grade"] == "bad"
    assert "is taken" in lines["DICOM port"]["text"]
    assert lines["fonts of the PDF"]["grade"] in ("good", "warning")


def test_doctor_names_each_file_that_cannot_be_read_and_each_peer_of_a_name(config: Path) -> None:
    text = config.read_text("utf-8") + '[[query]]\nname = "pacs"\nae_title = "OTHER"\nport = 1\n'
    text += (
        '[priors]\nmerged_ids = "merged.csv"\n[tls]\nport = 0\ncertificate = "a.crt"\nkey = "a.key"\nca = "ca.crt"\n'
    )
    text += f'[notify]\nemail_to = ["a@example.org"]\nsmtp_port = {free_port()}\n'
    text = text.replace("[node]\n", '[node]\nhost = "nowhere.invalid"\n')
    config.write_text(text, "utf-8")
    found = json.loads(run(config, "doctor", "--without-model", "--json", status=1))
    texts = [line["text"] for line in found if line["what"] == "files"]
    keys = ("priors.merged_ids", "tls.certificate", "tls.key", "tls.ca")
    assert [text.split(":")[0] for text in texts] == list(keys)
    assert all("no such file" in text for text in texts)
    grades = {line["what"]: line["grade"] for line in found}
    assert grades["peer pacs"] == grades["query peer pacs"] == grades["mail server"] == "bad"
    assert grades["DICOM port"] == "bad", "a host that is none is not a port that is taken"


def test_doctor_loads_the_model_and_says_which(config: Path, tmp_path: Path) -> None:
    from tests.support.tiny_nvila import save_tiny

    config.write_text(config.read_text("utf-8") + f'[model]\nsource = "{save_tiny(tmp_path / "tiny")}"\n', "utf-8")
    lines = {c["what"]: c for c in json.loads(run(config, "doctor", "--json", status=1))}
    assert lines["model"]["text"].startswith("tiny 1 loads in")
    config.write_text(config.read_text("utf-8").replace("/tiny", "/nowhere"), "utf-8")
    lines = {c["what"]: c for c in json.loads(run(config, "doctor", "--json", status=1))}
    assert lines["model"]["grade"] == "bad"


def test_doctor_reads_the_tls_files(config: Path, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("127.0.0.1")
    other, _ = Authority(tmp_path).issue("127.0.0.1", "other")
    for chosen, grade in ((certificate, "good"), (other, "bad")):
        tls = f'[tls]\nport = 0\ncertificate = "{chosen.name}"\nkey = "{key.name}"\nca = "ca.crt"\n'
        path = config.with_name(f"{chosen.stem}.toml")
        path.write_text(config.read_text("utf-8") + tls, "utf-8")
        lines = {c["what"]: c for c in json.loads(run(path, "doctor", "--without-model", "--json", status=1))}
        # A certificate of 30 days is near its end, which the doctor says as well.
        assert (lines["TLS files"]["grade"] == "bad") == (grade == "bad"), lines["TLS files"]


def test_delivery_by_mutual_tls_and_to_nobody_else(tmp_path: Path) -> None:
    import ssl

    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger")
    own = {"ca": authority.certificate, "certificate": certificate, "key": key}
    with running(Pacs(), tls=context) as pacs:
        where = {"name": "pacs", "port": pacs.port, "ae_title": "FAULTY", "same_association_seconds": 5}
        for folder, tls, arrives in (("a", {**own, "ca": stranger.certificate}, False), ("b", own, True)):
            node = make_node(tmp_path / folder, Clock(), {**where, "tls": tls})
            make_result(node)
            run_due(node)
            assert ({row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED}) == arrives
            assert len(pacs.kept) == (2 if arrives else 0)


@pytest.mark.parametrize("words", [("show",), ("promote",), ("shadow",), ("disagreements",), ("export",)])
def test_an_unknown_checkpoint_ends_with_status_2_and_the_known_ones_are_named(
    words: tuple[str, ...], config: Path, node: NodeContext
) -> None:
    for name in ("first", "second"):
        (node.models_dir / name).mkdir(parents=True)
    rest = ("copy",) if words == ("export",) else ()
    done = run_command("models", *words, "third", *rest, "--config", str(config), folder=config.parent)
    assert done.returncode == 2
    assert "no checkpoint 'third'" in done.stderr
    assert "there are: first, second" in done.stderr
