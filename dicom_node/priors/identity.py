"""Comparison of two images' patients: patient ID and issuer, checked against birth date, sex and name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from dicom_node.priors.person_names import NameAgreement, compare_names
from dicom_node.priors.types import Patient, PatientKey, PriorPolicy

OTHER_ID = "another patient ID"
SAME_ID_OTHER_ISSUER = "the same patient ID from another issuer, which is another person's"
ID_CONFLICT = "the patient ID agrees but the"
NO_BIRTH_DATE = "19000101"
"""Information systems put it where none is known: two patients who both have it agree in nothing."""
NOTHING_TO_CHECK = "no birth date, sex or name to check against"


class Identity(StrEnum):
    """The verdict."""

    SAME = "same"
    """Proven by ID, and nothing contradicts."""
    CONFLICT = "conflict"
    """The IDs agree or are linked, but birth date, sex or name contradict: somebody must look."""
    UNPROVEN = "unproven"
    """No ID, or too little agrees beside it."""
    OTHER = "other"
    """Another ID, or the same ID of another issuer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityVerdict:
    """The verdict, with its reason as a sentence without any of the values: reports and logs may carry it."""

    identity: Identity
    sentence: str


class _Link(StrEnum):
    """The evidence that connects two patient IDs."""

    EQUAL = "patient ID and issuer"
    EQUAL_WITHOUT_ISSUER = "patient ID"
    ONE_ISSUER = "patient ID (one of them names no issuer)"
    MERGED = "patient ID as merged by the site"
    LISTED = "an ID that the other image lists (OtherPatientIDs)"


_NEEDS_MORE = frozenset({_Link.ONE_ISSUER, _Link.LISTED})
"""Links that prove nothing alone: the birth date or the name must agree beside them."""


def compare_identity(a: Patient, b: Patient, policy: PriorPolicy | None = None) -> IdentityVerdict:
    """Tell whether `a` and `b` are one person. Symmetric and reflexive up to missing IDs; pure."""
    policy = policy or PriorPolicy()
    if not a.key.patient_id or not b.key.patient_id:
        return IdentityVerdict(identity=Identity.UNPROVEN, sentence="one of the images bears no patient ID")
    link = _link(a, b, policy)
    # What an ID was merged into counts too: many may have been merged into "0".
    keys = (key for patient in (a, b) for key in (patient.key, canonical(patient.key, policy)))
    if link is not None and any(names_nobody(key.patient_id) for key in keys):
        sentence = "the patient ID is a placeholder, which many patients may share"
        return IdentityVerdict(identity=Identity.UNPROVEN, sentence=sentence)
    if link is None:
        sentence = OTHER_ID
        if a.key.patient_id == b.key.patient_id:
            sentence = SAME_ID_OTHER_ISSUER
        return IdentityVerdict(identity=Identity.OTHER, sentence=sentence)
    return _check_linked_ids(a, b, link, policy)


def names_nobody(patient_id: str) -> bool:
    """Tell whether an ID is what is typed where there is none: "0", "9999", "UNKNOWN", "UNKNOWN2"."""
    flat = _NO_SIGN.sub("", patient_id.casefold())
    word = flat.rstrip("0123456789")
    # "unknown08154711" may be one patient's own number.
    is_word = word in _PLACEHOLDERS and len(flat) - len(word) <= 2
    return is_word or not flat.strip("0") or (len(flat) >= 3 and len(set(flat)) == 1)


_NO_SIGN = re.compile(r"[\W_]+")
_PLACEHOLDERS = frozenset(
    {
        *("anonymous", "anonymized", "anonymised", "anonym", "anon", "unknown", "unbekannt", "unk", "none", "noid"),
        *("null", "nil", "na", "nn", "test", "testpatient", "patient", "patientid", "id", "temp", "temporary", "dummy"),
        *("emergency", "notfall", "trauma", "johndoe", "janedoe"),
    }
)
"""Texts that people and devices put where an ID belongs."""


def canonical(key: PatientKey, policy: PriorPolicy) -> PatientKey:
    """The key under which the site now keeps this patient; follows chains of merges and survives circles."""
    merged = dict(policy.merged_keys)
    key = PatientKey(patient_id=key.patient_id, issuer=key.issuer or policy.default_issuer)
    way = [key]
    while (further := merged.get(key)) is not None:
        if further in way:
            # A circle, each member of which leads to another: all of them mean the smallest.
            return min(way[way.index(further) :])
        way.append(further)
        key = further
    return key


def linked_ids(patient: Patient, policy: PriorPolicy) -> tuple[str, ...]:
    """Every patient ID under which this person's images may be filed: own, listed and merged ones, to look up."""
    keys = {canonical(key, policy) for key in (patient.key, *patient.other_keys) if key.patient_id}
    merged = {old for old, _ in policy.merged_keys if canonical(old, policy) in keys}
    return tuple(sorted({key.patient_id for key in keys | merged} | ({patient.key.patient_id} - {""})))


def _link(a: Patient, b: Patient, policy: PriorPolicy) -> _Link | None:
    key_a, key_b = (
        PatientKey(patient_id=p.key.patient_id, issuer=p.key.issuer or policy.default_issuer) for p in (a, b)
    )
    if key_a == key_b:
        return _Link.EQUAL if key_a.issuer else _Link.EQUAL_WITHOUT_ISSUER
    canonical_a, canonical_b = canonical(key_a, policy), canonical(key_b, policy)
    if canonical_a == canonical_b:
        return _Link.MERGED
    if key_a.patient_id == key_b.patient_id and not (key_a.issuer and key_b.issuer):
        return _Link.ONE_ISSUER
    # A listed ID without its issuer may be anybody's, so it links nothing.
    others_a = {canonical(key, policy) for key in a.other_keys if key.patient_id and key.issuer}
    others_b = {canonical(key, policy) for key in b.other_keys if key.patient_id and key.issuer}
    if canonical_b in others_a or canonical_a in others_b:
        return _Link.LISTED
    return None


def _check_linked_ids(a: Patient, b: Patient, link: _Link, policy: PriorPolicy) -> IdentityVerdict:
    """The linked IDs against birth date, sex and name."""
    agreeing: list[str] = []
    contradicting: list[str] = []
    if a.birth_date and b.birth_date and not a.birth_date == b.birth_date == NO_BIRTH_DATE:
        (agreeing if a.birth_date == b.birth_date else contradicting).append("birth date")
    # "O" and "U" contradict nothing.
    sex_a, sex_b = (p.sex if p.sex in ("M", "F") else "" for p in (a, b))
    if sex_a and sex_b:
        (agreeing if sex_a == sex_b else contradicting).append("sex")
    name = compare_names(a.name, b.name)
    if name is NameAgreement.FAMILY_DIFFERS and policy.allow_changed_family_name and "birth date" in agreeing:
        agreeing.append("given name (the family name changed)")
    elif name is not NameAgreement.UNKNOWN:
        (agreeing if name is NameAgreement.AGREE else contradicting).append("name")
    if contradicting:
        return IdentityVerdict(
            identity=Identity.CONFLICT,
            sentence=f"{ID_CONFLICT} {_list_words(contradicting)} {_differ(contradicting)}",
        )
    if link in _NEEDS_MORE and not any(word.split()[0] in ("birth", "name", "given") for word in agreeing):
        return IdentityVerdict(
            identity=Identity.UNPROVEN,
            sentence=f"{link.value} alone, with neither birth date nor name to check it against",
        )
    if not agreeing:
        return IdentityVerdict(identity=Identity.SAME, sentence=f"{link.value} agree; {NOTHING_TO_CHECK}")
    return IdentityVerdict(identity=Identity.SAME, sentence=f"{_list_words([link.value, *agreeing])} agree")


def _list_words(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _differ(words: list[str]) -> str:
    return "differs" if len(words) == 1 else "differ"
