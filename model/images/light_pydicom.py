"""Imports pydicom without the libraries of HTTP by which it would download test files.

They were 40 % of the start of a decoder's process. pydicom imports them when somebody downloads.
"""

from __future__ import annotations

from model.deferred_imports import deferred_imports


def import_pydicom() -> None:
    """Import pydicom; to be called before anything else does, or it has no effect."""
    with deferred_imports(("requests", "tqdm")):
        import pydicom  # noqa: F401
