"""Everything that the processes of a node import, for `tests.support.forked`: its server imports this once."""

from __future__ import annotations

import gc
import importlib
import pkgutil

import dicom_node
import model
from tests.support import fixed_model  # noqa: F401 - as the rest

LEFT_OUT = ("dicom_node.__main__", "dicom_node.index.migrations", "dicom_node.retrain.subprocess_main")


def _import_all() -> None:
    for package in (dicom_node, model):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith(LEFT_OUT) and not found.name.endswith("_main"):
                importlib.import_module(found.name)


gc.disable()
_import_all()
gc.collect()
gc.freeze()
gc.enable()
