"""UIDs of the wire are checked, ours are derived."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from dicom_node.dicom.uids import derive_uid, is_uid


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_derived_uid_is_valid_and_depends_on_its_parts_only(parts: list[str]) -> None:
    uid = derive_uid(*parts)
    assert is_uid(uid)
    assert UID(uid).is_valid
    assert uid == derive_uid(*parts)
    assert uid != derive_uid(*parts, "more")


def test_parts_do_not_run_together() -> None:
    assert derive_uid("a", "bc") != derive_uid("ab", "c")


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".1", "1..2", "1.02", "../..", "/etc/passwd", "1.2\n", "1.2 ", "1.2\x00", "١.٢", "1" * 65, "1.a"],
)
def test_what_is_no_uid_is_recognised(text: str) -> None:
    assert not is_uid(text)
