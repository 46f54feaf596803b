"""Fitting a prognosis head: cross-entropy of the six answers, inputs left out at random, temperature on other cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.prognosis.head import PrognosisHead
from model.prognosis.inputs import Known, Vocabulary, inputs_of
from model.questions.answers import CHANGE_ANSWERS
from training.data.samples import UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrognosisCase:
    """The known facts, and what came: finding -> answer; a finding whose future is not known is missing."""

    known: Known
    came: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """hidden: units of each finding's network. steps, batch, rate, decay: of AdamW, the rate falling to 0."""

    hidden: int = 32
    steps: int = 3000
    batch: int = 256
    rate: float = 3e-3
    decay: float = 1e-3
    seed: int = 0


def vary_case(case: PrognosisCase, rng: np.random.Generator) -> PrognosisCase:
    """The case as a reader with less would see it: 1, 2, or all images, with or without the chart."""
    most = (1, 2, len(case.known.readings))[int(rng.integers(3))]
    known = case.known.newest(most)
    return replace(case, known=known if rng.random() < 0.5 else replace(known, context=None))


def make_arrays(
    cases: Sequence[PrognosisCase], vocabulary: Vocabulary
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """inputs [cases, findings, width] and answers [cases, findings], UNKNOWN where not known."""
    inputs = np.stack([inputs_of(case.known, vocabulary) for case in cases])
    answers = np.full(inputs.shape[:2], UNKNOWN, np.int64)
    for row, case in enumerate(cases):
        for column, key in enumerate(vocabulary.findings):
            if key in case.came:
                answers[row, column] = CHANGE_ANSWERS.index(case.came[key])
    return inputs, answers


def fit_head(
    inputs: NDArray[np.float32], answers: NDArray[np.int64], vocabulary: Vocabulary, options: FitOptions | None = None
) -> PrognosisHead:
    """Train on arrays as `make_arrays` gives them; the same arguments give the same head."""
    options = options or FitOptions()
    generator = torch.Generator().manual_seed(options.seed)
    findings, width, count = inputs.shape[1], inputs.shape[2], len(CHANGE_ANSWERS)
    weights = {
        "first": torch.randn(findings, width, options.hidden, generator=generator) * width**-0.5,
        "first_bias": torch.zeros(findings, options.hidden),
        "second": torch.randn(findings, options.hidden, count, generator=generator) * options.hidden**-0.5,
        "second_bias": torch.zeros(findings, count),
    }
    for value in weights.values():
        value.requires_grad_(True)
    empty = PrognosisHead(vocabulary=vocabulary, weights={})
    bars = torch.from_numpy(empty.bars()).clamp(min=-1e4)
    optimiser = torch.optim.AdamW(weights.values(), lr=options.rate, weight_decay=options.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    for rows in _batches(len(inputs), options):
        scores = _scores(weights, torch.from_numpy(inputs[rows])) + bars
        target = torch.from_numpy(answers[rows]).flatten()
        loss = functional.cross_entropy(scores.flatten(0, 1), target, ignore_index=UNKNOWN)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimiser.step()
        schedule.step()
    learned = {name: value.detach().numpy() for name, value in weights.items()}
    return PrognosisHead(vocabulary=vocabulary, weights=learned)


def _scores(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    hidden = torch.einsum("nfw,fwh->nfh", inputs, weights["first"]) + weights["first_bias"]
    return torch.einsum("nfh,fha->nfa", hidden.relu(), weights["second"]) + weights["second_bias"]


def _batches(count: int, options: FitOptions) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(options.seed)
    for _ in range(options.steps):
        yield rng.integers(count, size=min(options.batch, count))


def fit_temperature(head: PrognosisHead, inputs: NDArray[np.float32], answers: NDArray[np.int64]) -> PrognosisHead:
    """The head with the temperature that makes these cases likeliest."""
    scores = head.scores(inputs) + np.maximum(head.bars(), -1e4)
    known = answers != UNKNOWN
    rows, right = torch.from_numpy(scores[known]), torch.from_numpy(answers[known])
    tried = np.geomspace(0.5, 3.0, 60)
    losses = [float(functional.cross_entropy(rows / temperature, right)) for temperature in tried]
    return replace(head, temperature=float(tried[int(np.argmin(losses))]))
