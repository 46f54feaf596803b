"""A predictor whose model lives on an OpenAI-compatible server (SGLang, vLLM).

The images go as PNG data URLs before the question, so that all questions of a pair share one prefix that the server
caches. How questions are asked and scored: `model.remote_engine`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from model.checkpoints.foreign import FOREIGN_TYPES
from model.checkpoints.manifest import CheckpointKind, Manifest
from model.derived_uids import uid_of_digest
from model.engine.answers import EngineJob
from model.engine.engine import Engine
from model.engine.vlm import Vlm
from model.errors import InferenceError
from model.images.square import fit
from model.predict import Predictor
from model.questions.battery import QuestionType, closed_question
from model.questions.prompts import PromptLayout
from model.remote.client import DEFAULT_CONNECTIONS, ServerClient
from model.remote_engine import MIN_MASS, RemoteEngine, Scoring
from model.schema import DisplayImage

SIGHT_QUESTIONS = 6
"""So many are asked when a server is opened; in half precision one alone may be answered alike by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePictures:
    """The needs of a predictor whose model is out of reach: picture size and prompt layout."""

    image_size: int

    def picture(self, image: DisplayImage) -> NDArray[np.uint8]:
        """The square uint8 picture that is sent; the server's processor scales it as it likes."""
        return fit(image, self.image_size)

    def layout(
        self,
        *,
        priors: int,
        days: tuple[int | None, ...] = (),
        expert: str | None = None,
        context: str | None = None,
    ) -> PromptLayout:
        """The prompt layout; the difference feature exists in local models only."""
        return PromptLayout(priors=priors, days=days, expert=expert, context=context)


def open_remote_predictor(
    base_url: str,
    *,
    findings: Sequence[str],
    model: str | None = None,
    api_key: str | None = None,
    timeout_seconds: float = 300.0,
    connections: int = DEFAULT_CONNECTIONS,
    scoring: Scoring = Scoring.TOP,
    image_size: int = 448,
    manifest: Manifest | None = None,
    min_mass: float = MIN_MASS,
) -> Predictor:
    """A predictor whose model lives on a server. Raises InferenceError where the server does not answer.

    findings: what it may be asked; nobody but its trainer knows what a served model has learned. model: its name on
    the server, the first one where not given. manifest: reading rules (calibration, thresholds, device UID) of the
    checkpoint that the server serves, where that has one; otherwise the identity is made of address and name. A few
    questions are asked at once, in two orders of two pictures, to see that the server looks at them.
    """
    if not findings and manifest is None:
        raise InferenceError(f"{base_url}: nobody says what the served model may be asked ([model] findings)")
    client = ServerClient(base_url, api_key=api_key, timeout_seconds=timeout_seconds, connections=connections)
    name = _name_on_server(client, base_url, model)
    rules = manifest or _manifest_of(base_url, name, findings)
    pictures = RemotePictures(image_size=image_size)
    engine = RemoteEngine(client, name, scoring=scoring, min_mass=min_mass)
    # The sight check must see the numbers themselves, also of a model that answers with little probability.
    unguarded = RemoteEngine(client, name, scoring=scoring, min_mass=0.0)
    try:
        _check_sight(unguarded, pictures, rules.findings[:SIGHT_QUESTIONS])
    except InferenceError:
        client.close()
        raise
    # A predictor takes of both only `picture`, `layout` and `ask`, which a server can give without torch.
    return Predictor(cast(Vlm, pictures), rules, engine=cast(Engine, engine))


def _name_on_server(client: ServerClient, base_url: str, model: str | None) -> str:
    """The name of the served model, the first one where none is given. Closes the client before it raises."""
    try:
        offered = client.models()
        name = model or (offered[0] if offered else "")
        if name not in offered:
            raise InferenceError(f"{base_url}: offers {offered}, not {name!r}")
    except InferenceError:
        client.close()
        raise
    return name


def _check_sight(engine: RemoteEngine, pictures: RemotePictures, findings: Sequence[str]) -> None:
    """Ask about two pictures in both orders: a server that drops images, or one of them, answers all the same, and from
    the words alone. Raises InferenceError where every answer is equal to the last digit.
    """
    ramp = np.tile(np.linspace(0, 255, pictures.image_size).astype(np.uint8), (pictures.image_size, 1))
    questions = tuple(closed_question(QuestionType.PRESENCE, finding) for finding in findings or ("pneumothorax",))
    orders = ((ramp, ramp[::-1, ::-1].T), (ramp[::-1, ::-1].T, ramp))
    jobs = [EngineJob(pictures=order, layout=pictures.layout(priors=1), questions=questions) for order in orders]
    first, second = (
        [answers.closed[question.key].log_probabilities for question in questions] for answers in engine.ask(jobs)
    )
    # Equal to the last digit: from pictures that would be a great chance, from the words alone it is certain.
    if first == second:
        raise InferenceError(
            f"{engine.client.base_url}: {engine.model} answers the same whichever picture comes "
            "first: it does not see them"
        )


def _manifest_of(base_url: str, name: str, findings: Sequence[str]) -> Manifest:
    """Reading rules of a served model without a manifest: no calibration, an identity from address and name."""
    digest = hashlib.sha256(f"{base_url}\n{name}".encode()).digest()
    plain = "".join(character if character.isalnum() else "-" for character in name).strip("-")[:100]
    return Manifest(
        name=plain or "model",
        version=digest.hex()[:12],
        kind=CheckpointKind.AUTO,
        files={},
        findings=tuple(findings),
        question_types=FOREIGN_TYPES,
        device_uid=uid_of_digest(digest),
        base=f"{name} on {base_url}",
    )


__all__ = ["RemoteEngine", "RemotePictures", "Scoring", "open_remote_predictor"]
