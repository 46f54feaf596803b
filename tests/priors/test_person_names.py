"""Names over character sets, groups and spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.priors.person_names import NameAgreement, compare_names

AGREE, DIFFER = NameAgreement.AGREE, NameAgreement.DIFFER
UNKNOWN, FAMILY = NameAgreement.UNKNOWN, NameAgreement.FAMILY_DIFFERS


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("Müller^Erika", "MUELLER^ERIKA", AGREE),
        ("Müller^Erika", "Muller^Erika", AGREE),
        ("Groß^Anna", "GROSS^Anna", AGREE),
        ("Ångström^Åsa", "Angstrom^Asa", AGREE),
        ("Łukasz^Jan", "Lukasz^Jan", AGREE),
        ("O'Neil^Mary-Ann", "ONEIL^Mary Ann", AGREE),
        ("Weber^Hans^Peter^Dr.", "Weber^Hans^Peter", AGREE),
        ("Weber^Hans^Peter", "Weber^Hans", AGREE),
        ("Weber^Hans^Peter", "Weber^Hans^P", AGREE),
        ("Weber^Hans Peter", "Weber^Hans^Peter", AGREE),
        ("Weber^Hans^Peter", "Weber^Hans^Paul", DIFFER),
        ("Weber^Hans", "Weber^Karl", DIFFER),
        ("Weber^Anna", "Schmidt^Anna", FAMILY),
        ("WEBER HANS", "Weber^Hans", AGREE),
        ("Hans Weber", "Weber^Hans", AGREE),
        ("Hans Weber", "Weber^Karl", DIFFER),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou", AGREE),
        ("Yamada^Taro=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", AGREE),
        ("山田^太郎", "Yamada^Tarou=山田^太郎", AGREE),
        ("=山田^太郎", "Yamada^Tarou=山田^太郎", AGREE),
        ("==ﾔﾏﾀﾞ^ﾀﾛｳ", "Yamada^Tarou=山田^太郎=やまだ^たろう", AGREE),
        ("==ヤマダ^タロウ", "==ハマダ^タロウ", FAMILY),
        ("Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^小冬", DIFFER),
        ("김희중", "김희중", AGREE),
        ("Hong^Gildong=洪^吉洞=홍^길동", "홍^길동", AGREE),
        ("Διονυσιος", "ΔΙΟΝΥΣΙΟΣ", AGREE),
        ("Люкceмбypг", "люкceмбypг", AGREE),
        ("Yamada^Tarou", "=山田^太郎", UNKNOWN),
        ("", "Weber^Hans", UNKNOWN),
        ("^^", "Weber^Hans", UNKNOWN),
        ("ANONYMOUS", "Weber^Hans", UNKNOWN),
        ("??^??", "Weber^Hans", UNKNOWN),
        ("M\ufffdller^Erika", "Müller^Erika", UNKNOWN),
    ],
)
def test_names(a: str, b: str, expected: NameAgreement) -> None:
    assert compare_names(a, b) is expected
    assert compare_names(b, a) is expected


NAMES = st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=24)


@given(NAMES, NAMES)
def test_symmetric_over_all_of_unicode(a: str, b: str) -> None:
    assert compare_names(a, b) is compare_names(b, a)


@given(NAMES)
def test_a_name_never_contradicts_itself(name: str) -> None:
    assert compare_names(name, name) in (AGREE, UNKNOWN)
