"""The configuration contract: the template loads, and every wrong key is refused by name with what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from dicom_node.config import Settings, load_settings
from dicom_node.config.reference import reference_page
from dicom_node.config.template import section_class, template, unit_of
from dicom_node.errors import ConfigurationError
from dicom_node.runtime.supervisor import ProcessRole, serve
from tests.support.common import REPOSITORY

STALE = "not current: run scripts/write_configuration.py"
KEYS = [
    (f"{table}.{key}", key, field)
    for table, outer in Settings.model_fields.items()
    if (section := section_class(outer.annotation)) is not None
    for key, field in section.model_fields.items()
]


def _load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    return load_settings(path)


def test_the_example_is_the_template_that_init_writes() -> None:
    assert (REPOSITORY / "config.example.toml").read_text("utf-8") == template(), STALE


def test_the_reference_page_is_made_from_the_settings() -> None:
    assert (REPOSITORY / "docs/reference/configuration.md").read_text("utf-8") == reference_page(), STALE


@pytest.mark.parametrize(("name", "key", "field"), KEYS, ids=[name for name, _, _ in KEYS])
def test_a_key_is_described_and_a_number_has_its_unit(name: str, key: str, field: FieldInfo) -> None:
    assert field.description, f"{name}: give its Field a description"
    if isinstance(field.default, int | float) and not isinstance(field.default, bool):
        assert unit_of(key, field), f'{name}: name the unit by the key, or by json_schema_extra={{"unit": "…"}}'
    lines = template().splitlines()
    assert name.split(".")[0] in ("destinations", "query", "web", "receive") or any(
        re.match(rf"(# )?{key} = ", line) or line.removeprefix("# ") == f"[[{name}]]" for line in lines
    )


def test_the_template_states_the_defaults(tmp_path: Path) -> None:
    assert _load(tmp_path, template()) == _load(tmp_path, "")


def test_the_template_with_every_comment_removed_loads(tmp_path: Path) -> None:
    lines = template().splitlines()
    bare = [line.removeprefix("# ") for line in lines]
    text = "\n".join(line for line in bare if line.startswith("[") or re.match(r"[a-z_]+ = ", line))
    settings = _load(tmp_path, text)
    assert [destination.name for destination in settings.destinations] == ["pacs", "archive"]
    assert settings.destinations[0].tls is not None
    assert settings.destinations[0].tls.ca == tmp_path / "pacs-ca.crt"
    assert settings.tls is not None
    assert settings.tls.certificate == tmp_path / "node.crt"
    assert settings.web.users[0].name == "reader"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[node]\nae_titel = 'X'", ["node.ae_titel", "ae_title"]),
        ("[nodes]\n", ["nodes", "node"]),
        ("[node]\nport = 70000", ["node.port", "65535", "70000"]),
        ("[node]\nae_title = 'SEVENTEEN LETTERS'", ["node.ae_title", "16"]),
        ("[[destinations]]\nname='a'\nverify='maybe'", ["destinations.0.verify", "commitment", "maybe"]),
        ("[[destinations]]\nname='a'\n[[destinations]]\nname='a'", ["\n  two [[destinations]] tables are named 'a'"]),
        (
            "".join("[[web.users]]\nname='a'\npassword_hash='$argon2id$x'\n" for _ in range(2)),
            ["two [[web.users]] tables are named 'a'"],
        ),
        ("[[destinations]]\nname='a:b'", ["destinations.0.name", "without colon", "a:b"]),
        ("[[query]]\nname=''", ["query.0.name", "1 to 64"]),
        ("[database]\nurl = 'mysql://u@h/x'", ["database.url", "sqlite:///FILE", "postgresql+psycopg://"]),
        ("[access]\naddresses = ['10.0.0.0/99']", ["access.addresses.0: ", "such as 10.1.2.3 or", "10.0.0.0/99"]),
        ("[[destinations]]\nname='a'\nverify='find'\nurl='archive'", ["destinations.0.url", "such as https://"]),
        ("[notify]\nwebhook_url='gopher://a'", ["notify.webhook_url", "such as https://"]),
        ("[[web.users]]\nname='a'\npassword_hash='plain'", ["web.users.0.password_hash", "web-password"]),
        ("[tls]\ncertificate='a'\nkey='b'", ["tls", "needs ca"]),
        ("[model]\nbackend = 'openai'", ["model", "base_url"]),
        ("[model]\nsource = 'org/model'\nrevision = 'main'", ["model.revision", "40", "main"]),
        ("[node\n", ["not valid TOML"]),
        ("[completion]\nquiet_seconds = true", ["completion.quiet_seconds", "allowed is a number", "True"]),
        ("[node]\nreceivers = false", ["node.receivers", "allowed is a number"]),
        ("[completion]\nquiet_seconds = inf", ["completion.quiet_seconds", "finite"]),
        ("[completion]\nquiet_seconds = 1e300", ["completion.quiet_seconds", "a hundred years"]),
        ("[retention]\nkeep_days = 1e9", ["retention.keep_days", "at most 36500"]),
        ("[completion]\nquiet_seconds = 60\ndeadline_seconds = 30", ["completion", "deadline_seconds (30)", "(60)"]),
        ("[retention]\nkeep_free_percent = 2", ["retention", "emergency_free_percent (3)", "keep_free_percent (2)"]),
        ("[node]\nport = 8080", ["\n  node.port and web.port are both 8080"]),
        ("[hl7]\nenabled = true\nport = 11112", ["hl7.port", "11112"]),
        ("[[destinations]]\nname='a'\nport=11112", ["destination 'a' is this node's own port 11112"]),
        ("[[destinations]]\nname='a'\nhost=''", ["destinations.0.host", "at least 1 character"]),
        ("[destinations]\nname='a'", ["destinations: write [[destinations]], with two brackets"]),
        ("[receive]\nsop_classes = 'all'", ["receive.sop_classes", "allowed is a list", "'all'"]),
        ("[model]\nfindings = ['cancer']", ["model.findings", "'cancer' is no finding", "pneumothorax"]),
        ("[node]\nlanguage = 'fr'", ["node.language: reports are written in de, en", "'fr'"]),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, named: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        _load(tmp_path, text)
    for word in named:
        assert word in str(error.value)


def test_an_error_does_not_repeat_what_is_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        _load(tmp_path, "[database]\nurl = 'mysql://u:hunter2@h/x'")
    assert "hunter2" not in str(error.value)


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="dicom-node init"):
        load_settings(tmp_path / "none.toml")


def test_a_byte_order_mark_is_no_mistake_and_a_folder_is_named(tmp_path: Path) -> None:
    assert _load(tmp_path, "\ufeff[node]\nport = 104\n").node.port == 104
    with pytest.raises(ConfigurationError, match=r"a folder; name the file in it, such as .*config\.toml"):
        load_settings(tmp_path)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    settings = _load(tmp_path, "")
    assert settings.node.data_dir == tmp_path / "data"
    assert settings.database.url == f"sqlite:///{tmp_path}/data/index.db"
    elsewhere = _load(tmp_path, "[node]\ndata_dir = '/var/lib/node'")
    assert elsewhere.database.url == "sqlite:////var/lib/node/index.db", "the index lies in the data folder"
    assert _load(tmp_path, "[database]\nurl = 'sqlite:///i.db'").database.url == f"sqlite:///{tmp_path}/i.db"
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "demo").mkdir()
    assert _load(tmp_path, "[model]\nsource = 'checkpoint'").model.source == str(tmp_path / "checkpoint")
    assert _load(tmp_path, "[model]\nsource = 'org/model'").model.source == "org/model"
    assert _load(tmp_path, "[model]\nsource = 'demo'").model.source == "demo", "the bundled one, not a folder"


@pytest.mark.parametrize("source", ["org/model", "checkpoints/typing-error"])
def test_a_node_that_could_answer_no_study_does_not_start(tmp_path: Path, source: str) -> None:
    """A Hub id without its commit, or a folder that is not there: said at the start, not by the first study."""
    settings = _load(tmp_path, f"[model]\nsource = '{source}'")
    with pytest.raises(ConfigurationError, match=rf"model\.source.*'{source}'.*model\.revision"):
        serve(settings, ProcessRole.ALL)
    assert not (tmp_path / "data").exists()


def test_the_viewer_link_names_only_what_a_study_has(tmp_path: Path) -> None:
    good = "https://pacs.example.org/?s={study_instance_uid}&a={accession_number}"
    assert _load(tmp_path, f'[web]\nviewer_url = "{good}"\n').web.viewer_url == good
    with pytest.raises(ConfigurationError, match=r"\{patient_name\}; allowed are \{accession_number\}"):
        _load(tmp_path, '[web]\nviewer_url = "https://pacs.example.org/?n={patient_name}"\n')
    with pytest.raises(ConfigurationError, match="https://"):
        _load(tmp_path, '[web]\nviewer_url = "javascript:alert(1)"\n')
