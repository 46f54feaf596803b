"""Nothing under the GPL comes with the default installation."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.support.common import REPOSITORY


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", REPOSITORY / "scripts" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_default_dependency_is_under_the_gpl_or_without_a_licence(licences: ModuleType) -> None:
    stated = {name: licences.licence_of(one) for name, one in licences.closure().items()}
    assert {"pydicom", "torch", "sqlalchemy"} <= stated.keys()
    assert not {name: licence for name, licence in stated.items() if licences.is_refused(licence)}


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("GPL-3.0-or-later", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0-only", True),
        ("", True),
        ("LGPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", False),
        ("BSD-3-Clause", False),
    ],
)
def test_licence_kinds_are_told_apart(licences: ModuleType, licence: str, refused: bool) -> None:
    assert licences.is_refused(licence) is refused
