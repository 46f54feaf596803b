"""The documentation builds as a site without a warning: every link leads to a page that is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.common import REPOSITORY


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    shutil.copy(REPOSITORY / "zensical.toml", tmp_path)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "build" / "site" / "index.html").exists()
