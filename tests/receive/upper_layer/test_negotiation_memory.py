"""Remembered negotiations: the same bytes get the same answer, by the rule of the one who asks."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.index.tables.core import StudyPurpose
from dicom_node.receive.upper_layer.access_rules import PeerRule
from dicom_node.receive.upper_layer.negotiation import Negotiated, negotiate
from dicom_node.receive.upper_layer.negotiation_memory import MAX_REMEMBERED_BYTES, REMEMBERED, NegotiationMemory
from dicom_node.receive.upper_layer.pdu import ProtocolError
from tests.support.receiver import CR
from tests.support.scripted_peer import associate_rq

RULE = PeerRule(
    store=True,
    query=False,
    reject=False,
    report=False,
    commit=True,
    is_named=False,
    sop_classes=frozenset({CR}),
    purpose=StudyPurpose.ROUTED,
)
PDU_BYTES = 65_536


@pytest.fixture
def memory() -> NegotiationMemory:
    return NegotiationMemory(max_pdu_bytes=PDU_BYTES)


def test_a_remembered_answer_is_the_one_that_was_worked_out(memory: NegotiationMemory) -> None:
    request = associate_rq([(CR, [ExplicitVRLittleEndian])])
    first = memory.negotiate(request, rule=RULE)
    assert first == negotiate(request, rule=RULE, max_pdu_bytes=PDU_BYTES)
    assert memory.negotiate(bytes(bytearray(request)), rule=RULE) is first, "equal bytes are the same question"


def test_another_rule_or_another_title_is_another_question(memory: NegotiationMemory) -> None:
    request = associate_rq([(CR, [ExplicitVRLittleEndian])])
    granted = memory.negotiate(request, rule=RULE)
    refused = memory.negotiate(request, rule=replace(RULE, store=False))
    other = memory.negotiate(associate_rq([(CR, [ExplicitVRLittleEndian])], calling="OTHER"), rule=RULE)
    assert isinstance(granted, Negotiated)
    assert isinstance(refused, Negotiated)
    assert isinstance(other, Negotiated)
    assert list(granted.contexts) == [1]
    assert refused.contexts == {}
    assert other.calling_ae_title == "OTHER"


def test_what_cannot_be_understood_is_refused_each_time(memory: NegotiationMemory) -> None:
    request = associate_rq([(CR, [ExplicitVRLittleEndian])])
    broken = request[:80] + b"\xff" * (len(request) - 80)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="cannot be understood"):
            memory.negotiate(broken, rule=RULE)


def test_strangers_fill_no_memory(memory: NegotiationMemory) -> None:
    request = associate_rq([(CR, [ExplicitVRLittleEndian])])
    first = memory.negotiate(request, rule=RULE)
    for number in range(REMEMBERED):
        memory.negotiate(associate_rq([(CR, [ExplicitVRLittleEndian])], calling=f"S{number}"), rule=RULE)
    again = memory.negotiate(request, rule=RULE)
    assert again == first
    assert again is not first, "the oldest question was forgotten"
    long = associate_rq([(CR, [f"1.2.{number}.{'3' * 40}" for number in range(700)])])
    assert len(long) > MAX_REMEMBERED_BYTES
    assert memory.negotiate(long, rule=RULE) is not memory.negotiate(long, rule=RULE)


def test_associations_that_begin_at_once_get_one_answer(memory: NegotiationMemory) -> None:
    request = associate_rq([(CR, [ExplicitVRLittleEndian])])
    answers: list[object] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait(60)
        answers.append(memory.negotiate(request, rule=RULE))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 4
    assert all(answer is answers[0] for answer in answers)
