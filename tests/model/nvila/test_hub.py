"""A Hub id at a pinned commit, from a real small HTTP server that speaks what that needs of its protocol."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.common import free_port, wait_until
from tests.support.tiny_auto import gemma3
from tests.support.tiny_nvila import save_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LOAD = """
import sys
from model.predict import load_predictor
predictor = load_predictor("site/model", revision=sys.argv[1], findings=tuple(sys.argv[2:]))
print(predictor.vlm.kind, predictor.findings, predictor.manifest.certainty_floor, predictor.identity.device_uid)
"""


@contextmanager
def hub(folder: Path, asked: list[str]) -> Iterator[str]:
    """The files of a folder as the one commit of site/model; `asked` gets the paths of all requests."""

    def revision(request: Request) -> Response:
        asked.append(request.url.path)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return JSONResponse({"id": "site/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})

    def tree(request: Request) -> Response:
        asked.append(request.url.path)
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
        content = (folder / request.path_params["name"]).read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(content)),
        }
        return Response(b"" if request.method == "HEAD" else content, headers=headers)

    port = free_port()
    routes = [
        Route(f"/api/models/site/model/revision/{COMMIT}", revision),
        Route(f"/api/models/site/model/tree/{COMMIT}", tree),
        Route(f"/site/model/resolve/{COMMIT}/{{name:path}}", resolve, methods=["GET", "HEAD"]),
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


def load(endpoint: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Load the model in a process of its own, which has never heard of any other Hub."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return subprocess.run([sys.executable, "-c", _LOAD, *words], env=environment, capture_output=True, text=True)


def test_a_foreign_model_is_fetched_at_its_commit_without_pickles_and_code(tmp_path: Path) -> None:
    folder = gemma3(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit('foreign code ran')")
    asked: list[str] = []
    with hub(folder, asked) as endpoint:
        done = load(endpoint, tmp_path / "home", COMMIT, "edema")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("auto ('edema',) 0.0 2.25.")
    assert any(path.endswith("model.safetensors") for path in asked)
    assert not [path for path in asked if path.endswith((".bin", ".py"))]
    assert all(COMMIT in path for path in asked)


def test_the_manifest_of_a_checkpoint_of_ours_counts_from_the_hub_too(tmp_path: Path) -> None:
    """Else it would answer without its temperatures, thresholds, floor and tiling, and nobody would see."""
    folder = save_tiny(tmp_path / "m", manifest={"certainty_floor": 0.25, "findings": ("edema", "pneumothorax")})
    with hub(folder, []) as endpoint:
        done = load(endpoint, tmp_path / "home", COMMIT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("nvila ('pneumothorax', 'edema') 0.25 2.25.")
        (cached,) = (tmp_path / "home").rglob("snapshots/*/config.json")
        blob = cached.resolve()
        blob.write_text(blob.read_text("utf-8") + " ", "utf-8")
        tampered = load(endpoint, tmp_path / "home", COMMIT)
    assert tampered.returncode != 0
    assert "config.json was changed" in tampered.stderr


@pytest.mark.parametrize("revision", ["main", COMMIT[:7]])
def test_a_branch_is_no_pinned_revision(tmp_path: Path, revision: str) -> None:
    done = load("http://127.0.0.1:1", tmp_path / "home", revision, "edema")
    assert "needs `revision`, the 40 hexadecimal digits of a commit" in done.stderr
