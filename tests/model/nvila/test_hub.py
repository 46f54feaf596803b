"""A Hub id at a pinned commit, from a real small HTTP server that speaks what that needs of its protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.errors import CheckpointError
from model.predict import load_predictor
from tests.support.common import free_port, wait_until
from tests.support.tiny_auto import gemma3
from tests.support.tiny_nvila import save_tiny

FOREIGN, OURS = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"
"""A commit for each test."""
_LOAD = """
import json, sys, traceback
from model.predict import load_predictor
for line in sys.stdin:
    revision, *findings = json.loads(line)
    try:
        predictor = load_predictor("site/model", revision=revision, findings=tuple(findings))
        floor, uid = predictor.manifest.certainty_floor, predictor.identity.device_uid
        said = ["", predictor.vlm.kind, list(predictor.findings), floor, uid]
    except Exception:
        said = [traceback.format_exc()]
    print(json.dumps(said), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A hub with the model site/model, and a process that has never heard of any other hub."""

    home: Path
    """Where the process keeps what it has fetched."""
    folders: dict[str, Path]
    """Commit → the folder with its files."""
    asked: list[str] = field(default_factory=list)
    """The paths of all requests."""
    process: subprocess.Popen[str]

    def load(self, commit: str, *findings: str) -> list[object]:
        """Load the model in the process: the traceback or "", its kind, findings, certainty floor and device UID."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([commit, *findings]) + "\n")
        self.process.stdin.flush()
        said: list[object] = json.loads(self.process.stdout.readline())
        return said


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folders: dict[str, Path] = {}
    asked: list[str] = []
    home = tmp_path_factory.mktemp("home")
    with serving(folders, asked) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", _LOAD]
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
            yield Hub(home=home, folders=folders, asked=asked, process=process)


@contextmanager
def serving(folders: dict[str, Path], asked: list[str]) -> Iterator[str]:
    """The address of a hub with these commits of site/model."""

    def revision(request: Request) -> Response:
        asked.append(request.url.path)
        commit = request.path_params["commit"]
        folder = folders[commit]
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return JSONResponse({"id": "site/model", "sha": commit, "siblings": [{"rfilename": name} for name in names]})

    def tree(request: Request) -> Response:
        asked.append(request.url.path)
        folder = folders[request.path_params["commit"]]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return JSONResponse(
            [
                {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": "0" * 40,
                }
                for path in files
            ]
        )

    def resolve(request: Request) -> Response:
        asked.append(request.url.path)
        commit = request.path_params["commit"]
        content = (folders[commit] / request.path_params["name"]).read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Content-Length": str(len(content)),
        }
        return Response(b"" if request.method == "HEAD" else content, headers=headers)

    port = free_port()
    routes = [
        Route("/api/models/site/model/revision/{commit}", revision),
        Route("/api/models/site/model/tree/{commit}", tree),
        Route("/site/model/resolve/{commit}/{name:path}", resolve, methods=["GET", "HEAD"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the hub of the test")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def test_a_foreign_model_is_fetched_at_its_commit_without_pickles_and_code(hub: Hub, tmp_path: Path) -> None:
    folder = gemma3(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit('foreign code ran')")
    hub.folders[FOREIGN] = folder
    hub.asked.clear()
    error, *said = hub.load(FOREIGN, "edema")
    assert error == ""
    assert said[:3] == ["auto", ["edema"], 0.0]
    assert str(said[3]).startswith("2.25.")
    assert any(path.endswith("model.safetensors") for path in hub.asked)
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]
    assert all(FOREIGN in path for path in hub.asked)


def test_the_manifest_of_a_checkpoint_of_ours_counts_from_the_hub_too(hub: Hub, tmp_path: Path) -> None:
    """Else it would answer without its temperatures, thresholds, floor and tiling, and nobody would see."""
    manifest = {"certainty_floor": 0.25, "findings": ("edema", "pneumothorax")}
    hub.folders[OURS] = save_tiny(tmp_path / "m", manifest=manifest)
    error, *said = hub.load(OURS)
    assert error == ""
    assert said[:3] == ["nvila", ["pneumothorax", "edema"], 0.25]
    assert str(said[3]).startswith("2.25.")
    (cached,) = hub.home.rglob(f"snapshots/{OURS}/config.json")
    blob = cached.resolve()
    blob.write_text(blob.read_text("utf-8") + " ", "utf-8")
    (tampered,) = hub.load(OURS)
    assert "config.json was changed" in str(tampered)


@pytest.mark.parametrize("revision", ["main", FOREIGN[:7]])
def test_a_branch_is_no_pinned_revision(revision: str) -> None:
    with pytest.raises(CheckpointError, match="needs `revision`, the 40 hexadecimal digits of a commit"):
        load_predictor("site/model", revision=revision, findings=("edema",))
