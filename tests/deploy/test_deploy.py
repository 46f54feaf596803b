"""The unit and the container file: what systemd says of the unit, and the unit's own command as its ordinary user."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.common import REPOSITORY, free_port, program, wait_until
from tests.support.dcmtk import echoscu, storescu
from training.phantom.dicom import write_study_pair

UNIT = REPOSITORY / "deploy" / "dicom-node.service"
CONTAINERFILE = REPOSITORY / "deploy" / "Containerfile"
UID = 10112
EXPOSURE = 5.0
"""Of `systemd-analyze security`, 0 (locked up) to 10 (everything open)."""


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, "utf-8")
    return parser["Service"]


def instructions() -> list[tuple[str, str]]:
    """The container file's instructions, continued lines joined."""
    text = re.sub(r"\\\n", " ", CONTAINERFILE.read_text("utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_systemd_finds_nothing_wrong_in_the_unit(tmp_path: Path) -> None:
    analyse = program("systemd-analyze")
    copy = tmp_path / UNIT.name
    # Verified is also that the program exists; here it lies elsewhere.
    copy.write_text(UNIT.read_text("utf-8").replace("/opt/dicom-node/bin/dicom-node", "/bin/true"), "utf-8")
    done = subprocess.run([analyse, "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    command = [analyse, "security", "--offline=true", "--no-pager", str(copy)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"exposure level for \S+: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= EXPOSURE, said


class Installed:
    """The unit's command in a root that cannot be written, by an ordinary user with one folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port, self.web_port = free_port(), free_port()
        self._root, self._state = folder / "root", folder / "state"
        self._config = folder / "config.toml"
        self.log = folder / "unit.log"
        for path in (self._root, self._state):
            path.mkdir()
        os.chown(self._state, UID, UID)
        self._config.write_text(
            f'[node]\nhost = "127.0.0.1"\nport = {self.port}\ndata_dir = "/var/lib/dicom-node/data"\n'
            f'[database]\nurl = "sqlite:////var/lib/dicom-node/data/index.db"\n[web]\nport = {self.web_port}\n'
            "[completion]\nquiet_seconds = 0.5\n[receive]\nmin_free_mib = 0\n",
            "utf-8",
        )

    def command(self, *words: str) -> list[str]:
        where = (self._root, self._state, self._config, sys.prefix, sys.base_prefix, REPOSITORY, UID)
        script = REPOSITORY / "tests" / "deploy" / "root.sh"
        return [program("unshare"), "--mount", "sh", str(script), *map(str, where), *words]

    def start(self, words: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command(*words), stdout=log, stderr=log)

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")


@pytest.fixture
def installed() -> Iterator[Installed]:
    if os.geteuid() != 0:
        pytest.skip("only root may make a root folder of its own and become another user")
    for name in ("unshare", "setpriv", "chroot"):
        program(name)
    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="dicom-node-unit-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = Installed(folder)
        tried = subprocess.run(made.command("/bin/true"), capture_output=True, text=True, timeout=60)
        if tried.returncode:
            pytest.skip(f"no mount namespace to be had here: {tried.stderr.strip()[-200:]}")
        yield made


def test_the_units_command_works_as_an_ordinary_user_with_nothing_to_write_but_its_state(
    installed: Installed, tmp_path: Path
) -> None:
    service = unit()
    assert service["User"] == service["Group"] == "dicom-node"
    assert service["WorkingDirectory"] == "/var/lib/dicom-node"
    words = shlex.split(service["ExecStart"])
    doctor = [words[0], "doctor", "--without-model", "--json", *words[-2:]]
    lines = json.loads(subprocess.run(installed.command(*doctor), capture_output=True, timeout=120).stdout)
    grades = {line["what"]: line["grade"] for line in lines}
    assert grades["data folder"] == grades["DICOM port"] == "good"
    assert "user" not in grades, "the doctor sees no root"
    process = installed.start(words)
    try:
        wait_until(lambda: process.poll() is not None or "node ready" in installed.said, seconds=180, what="readiness")
        assert process.poll() is None, installed.said[-4000:]
        assert echoscu(installed.port) == 0
        for pid in descendants(process.pid):
            ids = Path(f"/proc/{pid}/status").read_text("utf-8")
            assert re.search(rf"^Uid:\s+{UID}\s+{UID}\s+{UID}\s", ids, re.M), ids
            assert re.search(r"^CapEff:\s+0+$", ids, re.M), ids
        storescu(write_study_pair(tmp_path, 5, long_side=384).current.files, installed.port)
        wait_until(lambda: "result stored" in installed.said, seconds=180, what="a result")
        answer = httpx.get(f"http://127.0.0.1:{installed.web_port}/health/ready", trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        assert subprocess.run(health_check(installed.web_port), timeout=60).returncode == 0
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(90)
    assert status == 0, installed.said[-4000:]
    assert "Traceback" not in installed.said, installed.said[-4000:]
    assert "Read-only file system" not in installed.said
    assert subprocess.run(health_check(installed.web_port), timeout=60, capture_output=True).returncode != 0


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text("utf-8").split():
            found += descendants(int(child))
    return found


def health_check(web_port: int) -> list[str]:
    """The container's own HEALTHCHECK, asking this port."""
    (text,) = [text for word, text in instructions() if word == "HEALTHCHECK"]
    words = json.loads(text.split("CMD", 1)[1])
    assert words[0] == "python"
    return [sys.executable, *(word.replace(":8080", f":{web_port}") for word in words[1:])]


def test_the_container_file_says_what_is_there_and_runs_as_no_root() -> None:
    sources = [shlex.split(text) for word, text in instructions() if word == "COPY" and "--from" not in text]
    for *names, _ in sources:
        for name in names:
            assert list(REPOSITORY.glob(name)), f"COPY {name}: nothing of that name"
    stages = [index for index, (word, _) in enumerate(instructions()) if word == "FROM"]
    last = instructions()[stages[-1] :]
    (user,) = [text for word, text in last if word == "USER"]
    made = re.compile(rf"useradd --system --uid {UID} [^&;|]*\b{re.escape(user)}(?:\s|$)")
    assert any(made.search(text) for word, text in last if word == "RUN")
    assert [json.loads(text) for word, text in last if word == "CMD"] == [["dicom-node", "serve"]]
    python = [text for word, text in instructions() if word == "FROM"]
    assert all(":3.11" in text for text in python), "the Python that the constraints are for"


def test_the_wheel_that_the_container_installs_holds_what_is_no_python(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("dicom_node", "model", "training", "migrations"):  # as COPY does: and no build folder in the checkout
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("dicom_node", "model", "training", "migrations"):
        wanted = {
            str(path.relative_to(REPOSITORY))
            for path in tracked(folder)
            if path.suffix in (".toml", ".html", ".css", ".js", ".svg", ".json", ".safetensors", ".mako", ".typed")
        }
        assert wanted <= inside, sorted(wanted - inside)
    assert any(name.endswith("entry_points.txt") for name in inside)


def tracked(folder: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z", folder], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git checkout: which files belong to it is not known")
    return [REPOSITORY / name for name in done.stdout.split("\0") if name and (REPOSITORY / name).exists()]
