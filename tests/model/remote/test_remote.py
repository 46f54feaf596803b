"""The remote back end against a real HTTP server with a real tiny model behind it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import model.remote.client
from dicom_node.config import ModelSection
from dicom_node.serving.predictor import load
from model.engine.answers import EngineJob
from model.engine.engine import Engine
from model.engine.vlm import NvilaVlm
from model.errors import InferenceError
from model.images.display import from_grey
from model.nvila import Tiling
from model.questions.battery import Question, QuestionType, battery, closed_question, difference_question
from model.questions.prompts import PromptLayout
from model.remote.client import ServerClient
from model.remote.logprobs import Walk, answer_log_probability
from model.remote_predictor import RemoteEngine, Scoring, open_remote_predictor
from model.schema import Change, Presence, StudyPair
from tests.support.common import assert_within, wait_until
from tests.support.openai_server import MODEL_NAME, Faults, serving
from tests.support.tiny_nvila import picture, tiny_nvila

FINDINGS = ("pleural_effusion", "edema")


@pytest.fixture(scope="module")
def vlm() -> NvilaVlm:
    model, processor = tiny_nvila()
    return NvilaVlm(model, processor, Tiling.NEVER)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def base_url(vlm: NvilaVlm, faults: Faults) -> Iterator[str]:
    with serving(vlm, faults) as url:
        yield url


def _job(*, open_question: bool = False) -> EngineJob:
    questions = tuple(q for q in battery(FINDINGS, with_prior=True) if q.allowed is not None)
    extra = (difference_question(),) if open_question else ()
    return EngineJob(pictures=(picture(1), picture(2)), layout=PromptLayout(priors=1), questions=(*questions, *extra))


def test_prompt_scoring_gives_the_numbers_of_the_local_engine(vlm: NvilaVlm, base_url: str) -> None:
    job = _job(open_question=True)
    local = Engine(vlm).ask([job])[0]
    with ServerClient(base_url) as client:
        remote = RemoteEngine(client, MODEL_NAME, scoring=Scoring.PROMPT, min_mass=0.0).ask([job])[0]
    assert remote.closed.keys() == local.closed.keys()
    for key, answer in local.closed.items():
        assert remote.closed[key].log_probabilities == pytest.approx(answer.log_probabilities, abs=2e-3), key
    for key, written in local.open.items():
        assert (remote.open[key].text, remote.open[key].complete) == (written.text, written.complete)


def test_top_scoring_gives_the_listed_tokens_of_the_local_model(vlm: NvilaVlm, base_url: str) -> None:
    """Where both first tokens of a question are listed, their log-probabilities are the model's own."""
    job = _job()
    with ServerClient(base_url) as client:
        remote = RemoteEngine(client, MODEL_NAME, min_mass=0.0).ask([job])[0]
    checked = 0
    for question in job.questions:
        inputs = vlm.inputs(vlm.prompt(job.layout, question.text), job.pictures)
        logs = vlm.model(**inputs).logits[0, -1].float().log_softmax(-1).tolist()
        listed = sorted(range(len(logs)), key=lambda token: -logs[token])[:20]
        spelled = {token: vlm.tokenizer.decode([token]).lstrip() for token in listed}
        for answer, score in zip(question.allowed or (), remote.closed[question.key].log_probabilities, strict=True):
            own = [t for t in listed if spelled[t] and _begins(answer, spelled[t])]
            alone = [t for t in own if sum(_begins(a, spelled[t]) for a in question.allowed or ()) == 1]
            if own and own == alone:
                assert score == pytest.approx(math.log(sum(math.exp(logs[t]) for t in own)), abs=2e-3)
                checked += 1
            elif not own:
                assert score <= logs[listed[-1]]
    assert len(remote.closed) == len(job.questions)
    assert checked > 0, "no answer of any question was among the listed tokens"


def test_token_scoring_gives_the_exact_numbers_of_the_answers_own_tokens(vlm: NvilaVlm, base_url: str) -> None:
    """Also of tokens that are far from the most probable ones, of which a list of twenty knows nothing."""
    job = _job()
    with ServerClient(base_url) as client:
        remote = RemoteEngine(client, MODEL_NAME, scoring=Scoring.TOKEN_IDS, min_mass=0.0).ask([job])[0]
    checked = 0
    for question in job.questions:
        inputs = vlm.inputs(vlm.prompt(job.layout, question.text), job.pictures)
        logs = vlm.model(**inputs).logits[0, -1].float().log_softmax(-1).tolist()
        first = {
            answer: {vlm.tokenizer(spelled, add_special_tokens=False)["input_ids"][0] for spelled in _spellings(answer)}
            for answer in question.allowed or ()
        }
        for answer, score in zip(question.allowed or (), remote.closed[question.key].log_probabilities, strict=True):
            others = set().union(*(ids for other, ids in first.items() if other != answer))
            if not first[answer] & others:
                exact = math.log(sum(math.exp(logs[token]) for token in first[answer]))
                assert score == pytest.approx(exact, abs=2e-3), (question.key, answer)
                checked += 1
    assert checked > len(job.questions)


def _spellings(answer: str) -> tuple[str, str]:
    return answer, answer[:1].upper() + answer[1:]


def test_one_request_for_each_question_where_first_tokens_differ(base_url: str, faults: Faults) -> None:
    with ServerClient(base_url) as client:
        engine = RemoteEngine(client, MODEL_NAME, scoring=Scoring.TOKEN_IDS)
        question = closed_question(QuestionType.PRESENCE, "edema")
        job = EngineJob(pictures=(picture(1),), layout=PromptLayout(), questions=(question,))
        engine.ask([job])
        engine.ask([job])
    assert len(faults.seen) == 2, "the answers' tokens were asked for once, and are no chats"
    assert all(len(body["logprob_token_ids"]) >= 2 and "top_logprobs" not in body for body in faults.seen)


def test_a_model_that_hardly_says_any_allowed_answer_states_nothing(base_url: str) -> None:
    """A random model gives "yes" and "no" a few thousandths together: the larger of them is no answer."""
    film, prior = from_grey(picture(3, 112)), from_grey(picture(4, 112))
    pair = StudyPair(current=film, prior=prior)
    guarded = open_remote_predictor(base_url, findings=FINDINGS, image_size=56, scoring=Scoring.TOKEN_IDS)
    assert {finding.presence for finding in guarded.predict(pair).findings} == {Presence.ABSTAINED}
    with ServerClient(base_url) as client:
        question = closed_question(QuestionType.PRESENCE, "edema")
        job = EngineJob(pictures=(picture(1),), layout=PromptLayout(), questions=(question,))
        (free,) = RemoteEngine(client, MODEL_NAME, scoring=Scoring.TOKEN_IDS, min_mass=0.0).ask([job])
        (held,) = RemoteEngine(client, MODEL_NAME, scoring=Scoring.TOKEN_IDS).ask([job])
    assert len(set(free.closed[question.key].log_probabilities)) == 2
    assert len(set(held.closed[question.key].log_probabilities)) == 1
    assert held.closed[question.key].mass == pytest.approx(free.closed[question.key].mass)


def test_waiting_pairs_are_asked_side_by_side(base_url: str, faults: Faults) -> None:
    predictor = open_remote_predictor(base_url, findings=FINDINGS[:1], image_size=56)
    pairs = [StudyPair(current=from_grey(picture(20 + number, 112))) for number in range(4)]
    faults.most_at_once = 0
    predictor.predict(pairs[0])
    alone, faults.most_at_once = faults.most_at_once, 0
    faults.hang = threading.Event()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(predictor.predict_many(pairs))))
    thread.start()
    wait_until(lambda: faults.at_once >= 3 * alone, what="the questions of several pairs to be in flight together")
    faults.hang.set()
    thread.join(120)
    assert found == [4]


def _begins(answer: str, text: str) -> bool:
    return answer.casefold().startswith(text.casefold())


def test_a_predictor_over_a_server_answers_a_pair(vlm: NvilaVlm, base_url: str, faults: Faults) -> None:
    predictor = open_remote_predictor(base_url, findings=FINDINGS, api_key="secret", image_size=56)
    film = from_grey(picture(3, 112))
    prediction = predictor.predict(StudyPair(current=film, prior=from_grey(picture(4, 112))))
    assert [finding.key for finding in prediction.findings] == list(predictor.findings)
    assert all(finding.presence in Presence for finding in prediction.findings)
    assert all(0.0 <= finding.probability <= 1.0 for finding in prediction.findings)
    assert prediction.difference_text is not None
    assert prediction.model.device_uid.startswith("2.25.")
    assert set(faults.keys) == {"Bearer secret"}
    again = open_remote_predictor(base_url, findings=FINDINGS, image_size=56)
    assert again.identity.device_uid == prediction.model.device_uid
    urls = [p["image_url"]["url"] for p in faults.seen[0]["messages"][0]["content"] if p["type"] == "image_url"]
    assert len(urls) == 2
    assert urls[0] != urls[1]


def test_the_node_opens_a_served_model_by_its_settings(base_url: str, faults: Faults, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n", "utf-8")
    section = ModelSection(backend="openai", base_url=base_url, findings=FINDINGS, api_key_file=tmp_path / "key")
    predictor = load(section)
    assert predictor.identity.name == MODEL_NAME
    film = from_grey(picture(3, 112))
    assert len(predictor.predict(StudyPair(current=film)).findings) == len(FINDINGS)
    assert set(faults.keys) == {"Bearer from-a-file"}
    assert not [body for body in faults.seen if "prompt_logprobs" in body]
    load(section.model_copy(update={"scoring": "prompt_logprobs"})).predict(StudyPair(current=film))
    assert [body for body in faults.seen if "prompt_logprobs" in body]
    with pytest.raises(InferenceError, match="findings"):
        load(ModelSection(backend="openai", base_url=base_url))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for(base_url: str, faults: Faults, status: int) -> None:
    faults.busy, faults.busy_status = 5, status
    with ServerClient(base_url, first_pause_seconds=0.02) as client:
        answers = RemoteEngine(client, MODEL_NAME).ask([_job()])[0]
    assert len(answers.closed) == len(_job().questions)
    assert faults.busy == 0


def test_no_more_requests_at_once_than_agreed(base_url: str, faults: Faults) -> None:
    with ServerClient(base_url, connections=2) as client:
        RemoteEngine(client, MODEL_NAME).ask([_job()])
    assert 1 <= faults.most_at_once <= 2


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (401, 1), (404, 1), (503, 6)])
def test_a_refusal_is_an_inference_error(base_url: str, faults: Faults, status: int, attempts: int) -> None:
    faults.refuse = status
    with (
        ServerClient(base_url, connections=1, first_pause_seconds=0.001) as client,
        pytest.raises(InferenceError, match=f"status {status}"),
    ):
        client.chat({"model": MODEL_NAME, "messages": [], "max_tokens": 1})
    assert len(faults.seen) == attempts


def test_a_server_that_never_answers_is_given_up(base_url: str, faults: Faults) -> None:
    faults.hang = threading.Event()
    started = time.monotonic()
    with ServerClient(base_url, timeout_seconds=0.6) as client, pytest.raises(InferenceError, match="in time"):
        RemoteEngine(client, MODEL_NAME).ask([_job()])
    assert_within(10, since=started)
    faults.hang.set()


def test_a_server_that_trickles_is_given_up(base_url: str, faults: Faults) -> None:
    """A byte now and then is an answer in time to every time-out between two bytes."""
    faults.trickle = b'{"choices": ['
    started = time.monotonic()
    with ServerClient(base_url, timeout_seconds=1.0) as client, pytest.raises(InferenceError, match="in time"):
        client.chat({"model": MODEL_NAME, "messages": [], "max_tokens": 1})
    assert_within(4, since=started)


def test_an_answer_without_end_is_given_up(base_url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.remote.client, "MAX_ANSWER_BYTES", 1000)
    faults.garbage = b"[" * 100_000
    with ServerClient(base_url) as client, pytest.raises(InferenceError, match="longer than 1000 bytes"):
        client.chat({"model": MODEL_NAME, "messages": [], "max_tokens": 1})


def test_a_server_that_does_not_look_at_the_pictures_is_refused(base_url: str, faults: Faults) -> None:
    """Some servers drop images that their model cannot take, and answer from the words alone."""
    faults.blind = True
    with pytest.raises(InferenceError, match="does not see them"):
        open_remote_predictor(base_url, findings=FINDINGS, image_size=56)


def test_where_no_answer_is_listed_nothing_is_stated(base_url: str, faults: Faults) -> None:
    """A server that lists one token only, which of a random model is none of ours."""
    predictor = open_remote_predictor(base_url, findings=FINDINGS, image_size=56)
    faults.most_listed = 1
    film = from_grey(picture(3, 112))
    prediction = predictor.predict(StudyPair(current=film, prior=from_grey(picture(4, 112))))
    assert [finding.presence for finding in prediction.findings] == [Presence.ABSTAINED] * len(FINDINGS)
    assert {finding.change for finding in prediction.findings} == {Change.NOT_COMPARABLE}
    assert {finding.location for finding in prediction.findings} == {None}


def test_capitals_are_no_other_answer(base_url: str, faults: Faults) -> None:
    with ServerClient(base_url) as client:
        engine = RemoteEngine(client, MODEL_NAME, min_mass=0.0)
        plain = engine.ask([_job()])[0]
        faults.capitals = True
        spelled = engine.ask([_job()])[0]
    told = [key for key, answer in plain.closed.items() if len(set(answer.log_probabilities)) > 1]
    assert told
    for key in told:
        first = [round(value, 3) for value in plain.closed[key].log_probabilities]
        if plain.closed[key].question.type is QuestionType.PRESENCE:  # one token tells: nothing is walked on
            assert [round(value, 3) for value in spelled.closed[key].log_probabilities] == first


_LISTED = b'{"choices": [{"message": {"content": ""}, "logprobs": {"content": [{"top_logprobs": %s}]}}]}'


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>",
        b"[]",
        b"[" * 5000,
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": ["yes"]}',
        b'{"choices": [{"logprobs": null}]}',
        _LISTED % b"[]",
        _LISTED % b"[null]",
        _LISTED % b'[{"token": "yes", "logprob": NaN}]',
        _LISTED % b'[{"token": "yes", "logprob": 3.5}, {"token": "no", "logprob": 1.5}]',
    ],
)
@pytest.mark.parametrize("scoring", list(Scoring))
def test_an_answer_that_is_none_is_an_inference_error(
    base_url: str, faults: Faults, garbage: bytes, scoring: Scoring
) -> None:
    faults.garbage = garbage
    with ServerClient(base_url) as client, pytest.raises(InferenceError):
        RemoteEngine(client, MODEL_NAME, scoring=scoring).ask([_job()])


def test_nobody_there_and_a_model_that_is_not_offered(base_url: str) -> None:
    with pytest.raises(InferenceError, match="offers"):
        open_remote_predictor(base_url, findings=FINDINGS, model="another")
    with (
        ServerClient("http://127.0.0.1:1/v1", first_pause_seconds=0.001) as client,
        pytest.raises(InferenceError, match="line broke"),
    ):
        client.models()


def test_a_line_that_breaks_is_tried_again(vlm: NvilaVlm) -> None:
    """The server goes away between two questions and comes back on the same port."""
    with serving(vlm, Faults()) as url:
        client = ServerClient(url, first_pause_seconds=0.05)
        assert client.models() == [MODEL_NAME]
    with pytest.raises(InferenceError):
        client.models()
    client.close()


@pytest.mark.parametrize("content", [b"null", b'"yes"', b'{"content": ["yes"]}', b'{"content": {"text": "yes"}}'])
def test_an_open_answer_that_is_no_text(base_url: str, faults: Faults, content: bytes) -> None:
    faults.garbage = b'{"choices": [{"finish_reason": "stop", "message": %s}]}' % content
    job = EngineJob(pictures=(picture(1),), layout=PromptLayout(), questions=(difference_question(),))
    with ServerClient(base_url) as client:
        if content in (b"null", b'"yes"'):
            said = RemoteEngine(client, MODEL_NAME).ask([job])[0].open["difference"].text
            assert said == ("yes" if content != b"null" else "")
        else:
            with pytest.raises(InferenceError, match="no text"):
                RemoteEngine(client, MODEL_NAME).ask([job])


# --- telling answers apart ---


def test_an_untrained_model_says_yes_with_a_capital() -> None:
    walk = Walk(("yes", "no"))
    walk.take("", {"Yes": math.log(0.95), "No": math.log(0.03), "no": math.log(0.001)})
    assert np.exp(walk.scores()) == pytest.approx([0.95, 0.031])


def test_two_spellings_of_a_beginning_are_walked_on_once() -> None:
    walk = Walk(CHANGE)
    walk.take("", {"N": math.log(0.6), "n": math.log(0.1), "Stable": math.log(0.3)})
    assert walk.open_beginnings() == ["N"]
    walk.take("N", {"ew": math.log(0.75), "ONE": math.log(0.25)})
    assert np.exp(walk.scores())[:3] == pytest.approx([0.525, 0.175, 0.3])


def test_an_unlisted_answer_gets_no_more_than_what_is_left_over() -> None:
    """A server that lists one token: the rest cannot have more than one minus that."""
    walk = Walk(("yes", "no"))
    walk.take("", {"yes": math.log(0.98)})
    assert np.exp(walk.scores()) == pytest.approx([0.98, 0.02])


CHANGE = ("new", "none", "stable", "worsening")


def test_answers_that_share_their_beginning_are_walked_on() -> None:
    walk = Walk(CHANGE)
    walk.take("", {"n": math.log(0.5), "st": math.log(0.3), " wors": math.log(0.1), "x": math.log(0.1)})
    assert walk.open_beginnings() == ["n"]
    walk.take("n", {"ew": math.log(0.8), "one": math.log(0.2)})
    assert walk.open_beginnings() == []
    assert walk.scores() == pytest.approx([math.log(v) for v in (0.4, 0.1, 0.3, 0.1)])


def test_an_answer_that_begins_another_one_gets_what_ends_it() -> None:
    walk = Walk(("left", "left and right", "right"))
    walk.take("", {"left": math.log(0.7), "right": math.log(0.3)})
    walk.take("left", {"<|im_end|>": math.log(0.9), " and": math.log(0.1)})
    assert walk.scores() == pytest.approx([math.log(v) for v in (0.63, 0.07, 0.3)])


def test_an_unlisted_answer_is_below_every_listed_token() -> None:
    walk = Walk(("yes", "no"))
    walk.take("", {"yes": math.log(0.9), "maybe": math.log(0.01)})
    assert walk.scores()[1] < math.log(0.01)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_whole_answers_as_tokens_keep_their_probabilities(weights: list[float]) -> None:
    shares = np.asarray(weights) / sum(weights)
    walk = Walk(CHANGE)
    walk.take("", {answer: math.log(share) for answer, share in zip(CHANGE, shares, strict=True)})
    assert np.exp(walk.scores()) == pytest.approx(shares)


def test_the_answer_is_found_at_the_end_of_the_prompt_only() -> None:
    def entry(text: str, score: float) -> dict[str, dict[str, float | str]]:
        return {"7": {"logprob": score, "decoded_token": text}}

    prompt = [
        None,
        entry("is it yes", -9),
        entry("\n", -8),
        entry("y", -1),
        entry("es", -2),
        entry("<end>", -4),
        entry("\n", -16),
    ]
    assert answer_log_probability({"prompt_logprobs": prompt}, "yes") == -7
    with pytest.raises(InferenceError, match="does not end"):
        answer_log_probability({"prompt_logprobs": prompt}, "no")
    # A template that leaves the answer out: "no" is not said by " nodule".
    asked = [None, entry("is there a", -9), entry(" nodule", -8), entry("?", -1)]
    with pytest.raises(InferenceError, match="does not end"):
        answer_log_probability({"prompt_logprobs": asked}, "no")
    prompt[4] = entry("es", math.nan)
    with pytest.raises(InferenceError, match="no numbers"):
        answer_log_probability({"prompt_logprobs": prompt}, "yes")


def test_questions_without_a_choice_are_scored_as_certain() -> None:
    question = Question(key="k", type=QuestionType.VIEW, text="which?", allowed=("only",))
    assert Walk(question.allowed or ()).scores() == (0.0,)
