"""The tests' own server answers in the form of the real one: no field and no type that vLLM does not have."""

from __future__ import annotations

import json

import httpx
import pytest

from model.engine.vlm import NvilaVlm
from model.nvila import Tiling
from tests.support.openai_server import MODEL_NAME, Faults, serving
from tests.support.tiny_nvila import tiny_nvila
from tests.support.vllm_dialogue import RECORDED, node_requests, shape, unknown_fields


def test_the_tests_server_invents_no_field_that_the_real_server_lacks() -> None:
    recorded = json.loads(RECORDED.read_text("utf-8"))
    model, processor = tiny_nvila()
    vlm = NvilaVlm(model, processor, Tiling.NEVER)
    ids = [vlm.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no")]
    with serving(vlm, Faults()) as url, httpx.Client(base_url=url.removesuffix("/v1"), trust_env=False) as client:
        for request in node_requests(MODEL_NAME, ids):
            real = recorded["answers"][request.name]
            own = request.send(client)
            assert own.status_code == real["status"] == 200, request.name
            assert not unknown_fields(shape(own.json()), shape(real["reply"])), request.name


@pytest.mark.parametrize(
    ("own", "real", "fault"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, "/b: not in the real answer"),
        (
            {"a": [None, {"7": {"x": "s"}}]},
            {"a": [None, {"12": {"x": 3}}]},
            "/a[]/TOKEN/x: str, the real answer has number",
        ),
    ],
)
def test_a_difference_is_named(own: object, real: object, fault: str) -> None:
    assert unknown_fields(shape(own), shape(real)) == [fault]
