"""pydicom without the library by which it downloads test files: it is imported with the first download, and whole."""

from __future__ import annotations

import json
import subprocess
import sys

_RUN = """
import json, sys
from model.images.light_pydicom import import_pydicom
import_pydicom()
before = "requests" in sys.modules
from pydicom.data import download
import requests
try:
    download.requests.get("http://127.0.0.1:1/")
except requests.ConnectionError:
    print(json.dumps([before, download.HAVE_REQUESTS]))
"""


def test_pydicom_imports_requests_with_the_first_download() -> None:
    done = subprocess.run([sys.executable, "-c", _RUN], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [False, True]
