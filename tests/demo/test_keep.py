"""`dicom-node demo --keep`: node, pages and viewer stay until Ctrl-C, and the printed links work."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.common import wait_until
from tests.support.viewer import ohif_pages
from training.phantom.dicom import write_study_pair


@contextmanager
def kept(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The running demonstration and what it has printed when it says that it stays."""
    log, studies = folder / "printed.txt", folder / "studies"
    write_study_pair(studies, 42, long_side=384)  # its own have the size of real ones, which takes seconds to draw
    command = [sys.executable, "-m", "dicom_node", "demo", "--keep", "--out", str(folder / "out")]
    command += ["--studies", str(studies), *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    try:

        def is_kept() -> bool:
            assert process.poll() is None, log.read_text("utf-8")[-3000:]
            return "Ctrl-C ends" in log.read_text("utf-8")

        wait_until(is_kept, seconds=1500, what="the demonstration to stay")
        yield process, log.read_text("utf-8")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.timeout(1800)
def test_the_pages_let_the_printed_user_in_and_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with kept(tmp_path) as (process, printed):
        found = re.search(r"pages:\s+(http://\S+)\s+user (\S+), password (\S+)", printed)
        assert found, printed
        address, user, password = found.groups()
        with httpx.Client(base_url=address, follow_redirects=True, trust_env=False, timeout=60) as client:
            form = client.get("/login").text
            token = re.search(r'name="csrf" value="([^"]+)"', form)
            data = {"name": user, "password": password} | ({"csrf": token[1]} if token else {})
            page = client.post("/login", data=data)
            assert page.status_code == 200
            assert "Phantom" in client.get("/").text
        assert "viewer: none" in printed
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(address, trust_env=False)


@pytest.mark.timeout(1800)
def test_the_viewer_shows_images_and_reports(tmp_path: Path) -> None:
    pages = ohif_pages()
    with kept(tmp_path, "--viewer", str(pages)) as (process, printed):
        found = re.search(r"viewer:\s+(http://\S+)", printed)
        if not found:
            pytest.skip(printed[printed.index("viewer:") :].splitlines()[0])
        assert "<title>" in httpx.get(found[1], trust_env=False).text
        series = httpx.get(f"{found[1]}/dicom-web/series", trust_env=False, timeout=60).json()
        modalities = sorted(one["00080060"]["Value"][0] for one in series)
        assert modalities.count("SR") == 4
        assert modalities.count("DX") == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
