"""The prognosis head: a small network for each finding, from what is known to the answers of the prediction question.

Its weights are a file of the checkpoint (`prognosis.safetensors`): the manifest's hashes and Device UID cover it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from model.errors import CheckpointError
from model.ontology import ontology
from model.prognosis.inputs import Known, Vocabulary, inputs_of
from model.questions.answers import CHANGE_ANSWERS, DEGREE_CHANGES

FILE = "prognosis.safetensors"
WEIGHTS = ("first", "first_bias", "second", "second_bias")
"""first [findings, width, hidden], first_bias [findings, hidden], second [findings, hidden, answers], second_bias."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrognosisHead:
    """weights: by the names of WEIGHTS, float32. temperature: divides the scores of all answers."""

    vocabulary: Vocabulary
    weights: Mapping[str, NDArray[np.float32]]
    temperature: float = 1.0

    @property
    def size(self) -> int:
        """Number of its weights."""
        return sum(int(values.size) for values in self.weights.values())

    def probabilities(self, known: Known) -> dict[str, dict[str, float]]:
        """Finding -> probability of each answer that makes sense of it."""
        scores = self.scores(inputs_of(known, self.vocabulary)[None])[0] / self.temperature
        return {
            key: dict(zip(CHANGE_ANSWERS, shares.tolist(), strict=True))
            for key, shares in zip(self.vocabulary.findings, softmax(scores + self.bars()), strict=True)
        }

    def scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """[cases, findings, width] -> [cases, findings, answers]."""
        # Each finding has weights of its own: many small networks in one product, which share only their inputs.
        hidden = np.einsum("nfw,fwh->nfh", inputs, self.weights["first"]) + self.weights["first_bias"]
        hidden = np.maximum(hidden, 0.0)
        out: NDArray[np.float32] = np.einsum("nfh,fha->nfa", hidden, self.weights["second"])
        return out + self.weights["second_bias"]

    def bars(self) -> NDArray[np.float32]:
        """[findings, answers]: minus infinity where an answer makes no sense: what has no degree grows no worse."""
        bars = np.zeros((len(self.vocabulary.findings), len(CHANGE_ANSWERS)), np.float32)
        for row, key in enumerate(self.vocabulary.findings):
            if not ontology().findings[key].graded:
                bars[row, [CHANGE_ANSWERS.index(answer) for answer in DEGREE_CHANGES]] = -np.inf
        return bars

    def save(self, folder: Path) -> None:
        """Write FILE into a checkpoint's folder."""
        about = {"vocabulary": json.dumps(asdict(self.vocabulary)), "temperature": repr(self.temperature)}
        save_file({name: np.ascontiguousarray(self.weights[name]) for name in WEIGHTS}, folder / FILE, about)


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
    return shares


def read_head(folder: Path) -> PrognosisHead | None:
    """The head of a checkpoint, None where it has none. Raises CheckpointError where the file is no such head."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in WEIGHTS}
        words = {name: tuple(values) for name, values in json.loads(about["vocabulary"]).items()}
        head = PrognosisHead(vocabulary=Vocabulary(**words), weights=weights, temperature=float(about["temperature"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a prognosis head: {error}") from error
    # The first axis of the first layer: one small network for each finding.
    if len(weights["first"]) != len(head.vocabulary.findings):
        raise CheckpointError(f"{path}: weights of {len(weights['first'])} findings for {head.vocabulary.findings}")
    return head
