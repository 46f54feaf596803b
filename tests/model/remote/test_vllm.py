"""The real vLLM against the local engine, on one tiny checkpoint: `make test-vllm` (3.5 GB; outside `make test`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model.checkpoints.vllm_export import export_for_vllm
from model.engine.answers import EngineJob
from model.engine.engine import Engine
from model.engine.vlm import Vlm, open_vlm
from model.errors import RefusedRequestError
from model.questions.battery import battery
from model.questions.prompts import PromptLayout
from model.remote.client import ServerClient
from model.remote_engine import RemoteEngine, Scoring, data_url
from model.remote_predictor import open_remote_predictor
from tests.support.common import free_port, wait_until
from tests.support.tiny_auto import qwen2_5_vl
from tests.support.tiny_nvila import picture
from tests.support.vllm_dialogue import RECORDED, node_requests

NAME = "tiny"
VENV = os.environ.get("DICOM_NODE_VLLM", "")
pytestmark = pytest.mark.skipif(not VENV, reason="the real vLLM is tested by make test-vllm")
FINDINGS = ("pleural_effusion", "edema")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint as our training saves it; what vLLM serves is its export."""
    place = tmp_path_factory.mktemp("vllm")
    # vLLM's attention on processors wants heads of 64
    source = qwen2_5_vl(place / "saved", hidden=256)
    export_for_vllm(source, place / "served")
    return place


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return open_vlm(folder / "saved")


@pytest.fixture(scope="module")
def root(folder: Path) -> Iterator[str]:
    """The server's root address."""
    port = free_port()
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    environment.pop("PYTHONPATH", None)
    options = ["--dtype", "float32", "--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 2}']
    options += ["--enforce-eager", "--max-num-seqs", "8", "--max-logprobs", "20"]
    command = [f"{VENV}/bin/vllm", "serve", str(folder / "served"), "--served-model-name", NAME, *options]
    log = folder / "vllm.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or _answers(address), seconds=900, what="vLLM to answer")
        assert process.poll() is None, log.read_text("utf-8")[-4000:]
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _job() -> EngineJob:
    questions = tuple(question for question in battery(FINDINGS, with_prior=True) if question.allowed is not None)
    return EngineJob(pictures=(picture(1), picture(2)), layout=PromptLayout(priors=1), questions=questions)


def test_an_exported_checkpoint_gives_the_local_engines_numbers(root: str, vlm: Vlm) -> None:
    job = _job()
    local = Engine(vlm).ask([job])[0]
    with ServerClient(f"{root}/v1") as client:
        remote = RemoteEngine(client, NAME, scoring=Scoring.PROMPT, min_mass=0.0).ask([job])[0]
    assert remote.closed.keys() == local.closed.keys()
    for key, answer in local.closed.items():
        assert remote.closed[key].log_probabilities == pytest.approx(answer.log_probabilities, abs=2e-3), key


def test_token_ids_give_the_exact_numbers_of_first_tokens(root: str, vlm: Vlm) -> None:
    job = _job()
    yes_no = [question for question in job.questions if set(question.allowed or ()) == {"yes", "no"}]
    with ServerClient(f"{root}/v1") as client:
        remote = RemoteEngine(client, NAME, scoring=Scoring.TOKEN_IDS, min_mass=0.0).ask([job])[0]
        prompt = RemoteEngine(client, NAME, scoring=Scoring.PROMPT, min_mass=0.0).ask([job])[0]
    assert yes_no
    assert remote.closed.keys() == prompt.closed.keys()
    for question in yes_no:
        inputs = vlm.inputs(vlm.prompt(job.layout, question.text), job.pictures)
        logs = vlm.model(**inputs).logits[0, -1].float().log_softmax(-1)
        for answer, score in zip(question.allowed or (), remote.closed[question.key].log_probabilities, strict=True):
            first = int(vlm.tokenizer(answer, add_special_tokens=False)["input_ids"][0])
            assert score >= float(logs[first].detach()) - 2e-3, "other spellings may only add to it"


def test_a_predictor_opens_and_too_many_images_are_refused_in_words(root: str) -> None:
    predictor = open_remote_predictor(f"{root}/v1", findings=FINDINGS, scoring=Scoring.TOKEN_IDS, image_size=56)
    assert predictor.identity.name == NAME
    content = [{"type": "image_url", "image_url": {"url": data_url(picture(n))}} for n in range(3)]
    with ServerClient(f"{root}/v1") as client, pytest.raises(RefusedRequestError, match=r"(?i)image"):
        client.chat({"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 1})


def test_every_kind_of_request_is_answered_and_put_on_record(root: str, vlm: Vlm, folder: Path) -> None:
    ids = [int(vlm.tokenizer(word, add_special_tokens=False)["input_ids"][0]) for word in ("yes", "no")]
    answers = {}
    with httpx.Client(base_url=root, timeout=300, trust_env=False) as client:
        for request in node_requests(NAME, ids):
            reply = request.send(client)
            answers[request.name] = {"status": reply.status_code, "reply": reply.json()}
        version = client.get("/version").json()["version"]
    assert {answer["status"] for answer in answers.values()} == {200}, answers
    if os.environ.get("VLLM_RECORD"):
        value = {"server": f"vLLM {version}", "answers": answers}
        text = json.dumps(value, indent=1, ensure_ascii=False).replace(str(folder / "served"), "FOLDER")
        RECORDED.write_text(text + "\n", "utf-8")
