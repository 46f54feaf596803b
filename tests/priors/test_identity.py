"""One person or not: the ID decides, demographics may only contradict it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from dicom_node.cli.doctor.machine_checks import merged_ids
from dicom_node.config import Settings
from dicom_node.errors import ConfigurationError
from dicom_node.priors import Patient, PatientKey, PriorPolicy, compare_identity, patient_of, policy_in_service
from dicom_node.priors.identity import Identity, canonical
from dicom_node.priors.merged_ids import read_merged
from tests.support.prior_values import patient

SAME, CONFLICT, UNPROVEN, OTHER = Identity.SAME, Identity.CONFLICT, Identity.UNPROVEN, Identity.OTHER


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (patient(), SAME),
        (patient("P2"), OTHER),
        (patient(issuer="CLINIC B"), OTHER),
        (patient(issuer="CLINIC B", birth_date="", sex="", name=""), OTHER),
        (patient(issuer=""), SAME),
        (patient(issuer="", birth_date="", name=""), UNPROVEN),
        (patient(issuer="", birth_date="19610130"), CONFLICT),
        (patient(""), UNPROVEN),
        (patient(birth_date="19600131"), CONFLICT),
        (patient(birth_date=""), SAME),
        (patient(sex="F"), CONFLICT),
        (patient(sex="UNK"), SAME),
        (patient(sex="O"), SAME),
        (patient(name="Weber^Karl"), CONFLICT),
        (patient(name="Schmidt^Hans^Peter"), CONFLICT),
        (patient(name=""), SAME),
        (patient(birth_date="", sex="", name=""), SAME),
        (patient("P2", other_keys=(PatientKey(patient_id="P1", issuer="HOSPITAL"),)), SAME),
        (patient("P2", other_keys=(PatientKey(patient_id="P1", issuer="CLINIC B"),)), OTHER),
        (patient("P2", other_keys=(PatientKey(patient_id="P1"),)), OTHER),
        (patient("P2", other_keys=(PatientKey(patient_id="P1", issuer="HOSPITAL"),), sex="F"), CONFLICT),
        (patient("P2", other_keys=(PatientKey(patient_id="P1", issuer="HOSPITAL"),), name="", birth_date=""), UNPROVEN),
    ],
)
def test_against_a_full_record(other: Patient, expected: Identity) -> None:
    assert compare_identity(patient(), other).identity is expected
    assert compare_identity(other, patient()).identity is expected


def test_birth_date_that_stands_for_none_proves_nobody() -> None:
    """The ID agrees but for its issuer, the names are unreadable, and both were born on 1 January 1900."""
    unknown = {"birth_date": "19000101", "name": "M?ller^Anna"}
    bare, issued = patient(issuer="", **unknown), patient(issuer="CLINIC B", **unknown)
    assert compare_identity(bare, issued).identity is UNPROVEN
    assert compare_identity(bare, patient(issuer="CLINIC B", name="", birth_date="19620408")).identity is CONFLICT
    assert compare_identity(issued, issued).identity is SAME, "the ID and its issuer prove it alone"


@pytest.mark.parametrize("keyword", ["PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"])
def test_element_with_several_values_names_nobody(keyword: str) -> None:
    """Of "P1\\P2" the first was taken, and the film compared with those of P1, who may be somebody else."""
    header = Dataset()
    header.PatientID, header.IssuerOfPatientID = "P1", "HOSPITAL"
    header.PatientBirthDate, header.PatientSex = "19600130", "M"
    whole = patient_of(header)
    setattr(header, keyword, [header[keyword].value, {"PatientBirthDate": "19610130"}.get(keyword, "F")])
    read = patient_of(header)
    values = (read.key.patient_id, read.key.issuer, read.birth_date, read.sex)
    kept = (whole.key.patient_id, whole.key.issuer, whole.birth_date, whole.sex)
    assert [value for value, was in zip(values, kept, strict=True) if value != was] == [""]


def test_wrong_file_of_merged_ids_costs_the_merges_and_no_report(tmp_path: Path) -> None:
    """A line that was typed wrong while the node ran made every analysis fail until it was a dead letter."""
    path = tmp_path / "merged.csv"
    settings = Settings.model_validate({"priors": {"merged_ids": path}})
    path.write_text("old_id,old_issuer,new_id,new_issuer\nA,HOSPITAL,B,HOSPITAL\n", "utf-8")
    assert policy_in_service(settings).merged_keys == ((key("A"), key("B")),)
    path.write_text("old_id,old_issuer,new_id,new_issuer\nA,HOSPITAL,,HOSPITAL,\n", "utf-8")
    os.utime(path, (1, 1))
    assert policy_in_service(settings).merged_keys == ()
    with pytest.raises(ConfigurationError, match="old_id and new_id must both be given"):
        merged_ids(settings)
    path.unlink()
    assert policy_in_service(settings).merged_keys == ()


def test_a_changed_family_name_is_accepted_only_where_the_site_says_so() -> None:
    married = patient(name="Schmidt^Hans^Peter")
    policy = PriorPolicy(allow_changed_family_name=True)
    assert compare_identity(patient(), married, policy).identity is SAME
    assert compare_identity(patient(birth_date=""), married, policy).identity is CONFLICT


def test_default_issuer_makes_an_unissued_id_the_sites_own() -> None:
    policy = PriorPolicy(default_issuer="HOSPITAL")
    bare = patient(issuer="", birth_date="", sex="", name="")
    assert compare_identity(patient(), bare, policy).identity is SAME
    assert compare_identity(patient(issuer="CLINIC B"), bare, policy).identity is OTHER


def key(name: str) -> PatientKey:
    return PatientKey(patient_id=name, issuer="HOSPITAL")


def test_merged_ids_are_followed_over_chains_and_survive_a_circle() -> None:
    policy = PriorPolicy(merged_keys=((key("A"), key("B")), (key("B"), key("C"))))
    assert compare_identity(patient("A"), patient("C"), policy).identity is SAME
    assert compare_identity(patient("A"), patient("D"), policy).identity is OTHER
    circle = PriorPolicy(merged_keys=((key("X"), key("A")), (key("A"), key("B")), (key("B"), key("A"))))
    assert {canonical(key(name), circle) for name in "XAB"} == {key("A")}
    tailed = PriorPolicy(merged_keys=((key("A"), key("B")), (key("B"), key("C")), (key("C"), key("B"))))
    assert {canonical(key(name), tailed) for name in "ABC"} == {key("B")}


def test_ids_that_were_merged_into_a_placeholder_prove_nobody() -> None:
    policy = PriorPolicy(merged_keys=((key("A"), key("0")), (key("B"), key("0"))))
    assert compare_identity(patient("A"), patient("B"), policy).identity is UNPROVEN


def test_merged_ids_still_yield_to_a_contradiction() -> None:
    policy = PriorPolicy(merged_keys=((key("A"), key("B")),))
    assert compare_identity(patient("A"), patient("B", sex="F"), policy).identity is CONFLICT


def test_csv_of_merged_ids(tmp_path: Path) -> None:
    path = tmp_path / "merged.csv"
    path.write_text("\ufeffold_id,old_issuer,new_id,new_issuer\nA,HOSPITAL,B,HOSPITAL\n", "utf-8")
    assert read_merged(path) == ((key("A"), key("B")),)
    path.write_text("old_id,old_issuer,new_id,new_issuer\nA,,B,\nA,,C,\n", "utf-8")
    with pytest.raises(ConfigurationError, match=r"merged\.csv:3.*two different"):
        read_merged(path)
    path.write_text("old,new\nA,B\n", "utf-8")
    with pytest.raises(ConfigurationError, match="old_id, old_issuer"):
        read_merged(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_merged(tmp_path / "none.csv")


KEYS = st.builds(PatientKey, patient_id=st.sampled_from(["", "A", "B"]), issuer=st.sampled_from(["", "X", "Y"]))
PATIENTS = st.builds(
    Patient,
    key=KEYS,
    birth_date=st.sampled_from(["", "19600130", "19600131"]),
    sex=st.sampled_from(["", "M", "F", "O"]),
    name=st.sampled_from(["", "Weber^Hans", "Weber^Karl", "Schmidt^Hans"]),
    other_keys=st.lists(KEYS, max_size=2).map(tuple),
)
POLICIES = st.builds(
    PriorPolicy,
    allow_changed_family_name=st.booleans(),
    default_issuer=st.sampled_from(["", "X"]),
    merged_keys=st.dictionaries(KEYS, KEYS, max_size=3).map(lambda d: tuple(d.items())),
)


@given(PATIENTS, PATIENTS, POLICIES)
def test_symmetric_and_never_same_against_a_contradiction(a: Patient, b: Patient, policy: PriorPolicy) -> None:
    verdict = compare_identity(a, b, policy)
    assert verdict == compare_identity(b, a, policy)
    if verdict.identity is SAME:
        assert a.key.patient_id
        assert b.key.patient_id
        assert not (a.birth_date and b.birth_date and a.birth_date != b.birth_date)
        assert {a.sex, b.sex} != {"M", "F"}


@given(PATIENTS, PATIENTS)
def test_stated_and_different_issuers_are_never_one_person(a: Patient, b: Patient) -> None:
    """Without merged IDs and lists: the same number of two issuers is two people."""
    if a.key.issuer and b.key.issuer and a.key.issuer != b.key.issuer and not a.other_keys and not b.other_keys:
        assert compare_identity(a, b).identity is not SAME


@given(PATIENTS, PATIENTS)
def test_the_sentence_tells_no_value(a: Patient, b: Patient) -> None:
    sentence = compare_identity(a, b).sentence
    for value in (a.birth_date, b.birth_date, a.name, b.name):
        assert not value or value not in sentence
