"""Splits: nobody is on both sides, nobody ever changes sides, the frozen set grows to its size and no further."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.index.tables.retrain import RetrainSplit
from dicom_node.retrain.splits import SplitShares, assign

SHARES = SplitShares(frozen_patients=10, frozen=0.35, validate=0.2)
TRAINING_SIDE = {RetrainSplit.TRAIN, RetrainSplit.VALIDATE}


def alone(*patients: str) -> list[tuple[str, str]]:
    return [(patient, patient) for patient in patients]


def names(count: int, first: int = 0) -> list[str]:
    return [f"p{number}" for number in range(first, first + count)]


def test_a_first_snapshot_fills_by_shares() -> None:
    split = assign(alone(*names(20)), {}, SHARES).split
    counts = {where: sum(s is where for s in split.values()) for where in RetrainSplit}
    assert counts == {RetrainSplit.FROZEN: 7, RetrainSplit.VALIDATE: 3, RetrainSplit.TRAIN: 10}


def test_a_full_frozen_set_takes_nobody_more() -> None:
    first = assign(alone(*names(100)), {}, SHARES).split
    assert sum(s is RetrainSplit.FROZEN for s in first.values()) == 10
    second = assign(alone(*names(150)), first, SHARES).split
    assert {p for p, s in second.items() if s is RetrainSplit.FROZEN} == {
        p for p, s in first.items() if s is RetrainSplit.FROZEN
    }
    assert all(second[p] in TRAINING_SIDE for p in names(50, first=100))


def test_linked_ids_are_one_person() -> None:
    links = [*alone(*names(30)), ("p1", "other id of p1")]
    split = assign(links, {}, SHARES).split
    assert split["p1"] == split["other id of p1"]


def test_ids_that_turn_out_to_be_one_person_over_both_sides_are_used_no_more() -> None:
    known = {"a": RetrainSplit.FROZEN, "b": RetrainSplit.TRAIN}
    made = assign([("a", "b"), ("c", "c")], known, SHARES)
    assert made.conflicts == {"a", "b"}
    assert set(made.split) == {"c"}


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=30), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6),
)
def test_over_any_number_of_snapshots_nobody_changes_sides(
    snapshots: list[list[int]], linked: list[tuple[int, int]]
) -> None:
    known: dict[str, RetrainSplit] = {}
    for number, patients in enumerate(snapshots):
        links = alone(*(f"p{p}" for p in patients))
        links += [(f"p{a}", f"p{b}") for a, b in linked[: number + 1]]
        made = assign(links, known, SHARES)
        assert all(made.split[p] == where for p, where in known.items() if p in made.split)
        assert not made.conflicts & set(made.split)
        for first, second in links:
            assert made.split.get(first) == made.split.get(second), "one person's films stand in one split"
        assert set(made.split) | made.conflicts == {p for link in links for p in link}
        frozen = {p for p, where in made.split.items() if where is RetrainSplit.FROZEN}
        if not linked:
            assert len(frozen) <= max(SHARES.frozen_patients, len(frozen & set(known)))
        known |= made.split
