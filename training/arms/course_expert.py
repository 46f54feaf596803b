"""The expert of the study on courses: the bundled film classifier's network with heads that learned on phantoms.

The network learned on films of people and says nothing of phantoms as it is. What its last layers know of a film is
enough for logistic regression to read the study's findings from, so that its errors are those of a reader of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from model.errors import CheckpointError
from model.experts.expert import CONFIGURATION, WEIGHTS, Expert, load_expert
from model.experts.film_classifier import WEIGHTS as FILM_WEIGHTS
from model.experts.film_network import MINED, FilmExpert, grow_heads
from model.ontology import ontology
from training.arms.course_data import SHOWN_FILMS, StudyCourses, study_truth
from training.arms.data import STUDY_FINDINGS

ARCHITECTURE = "dicom-node.FilmNetwork"
MEMBER = "1."
"""Of the bundled classifier: the network that most of its figures rest on."""
PENALTY = 1e-3
ROUNDS = 60
FILMS_AT_ONCE = 64


def expert_labels() -> tuple[str, ...]:
    """The names of the expert's outputs: ChestX-ray14's for the study's findings, empty for what it is not asked."""
    asked = {ontology().findings[key].nih for key in STUDY_FINDINGS}
    last = max(MINED.index(label) for label in asked if label is not None)
    return tuple(label if label in asked else "" for label in MINED[: last + 1])


def make_expert(folder: Path, checkpoint: Path, courses: StudyCourses) -> Expert:
    """Fit the heads on all films of these courses, unless the folder holds an expert; returns it."""
    if not (folder / CONFIGURATION).exists():
        labels = expert_labels()
        network = FilmExpert(len(labels)).eval()
        states = load_file(checkpoint / FILM_WEIGHTS)
        own = {name.removeprefix(MEMBER): value.float() for name, value in states.items() if name.startswith(MEMBER)}
        missing = network.network.load_state_dict(grow_heads(own), strict=False).missing_keys
        if strange := [name for name in missing if not name.endswith("num_batches_tracked")]:
            raise CheckpointError(f"{checkpoint}: the film classifier lacks {strange[0]}")
        films = [film for index in range(courses.courses) for film in courses.films(index)]
        weight, bias = fit_heads(_features(network, films), torch.from_numpy(present_on(courses)))
        for column, key in enumerate(STUDY_FINDINGS):
            row = labels.index(str(ontology().findings[key].nih))
            with torch.no_grad():
                network.network.mined.weight[row], network.network.mined.bias[row] = weight[column], bias[column]
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / WEIGHTS)
        about = {"architecture": ARCHITECTURE, "labels": list(labels)}
        (folder / CONFIGURATION).write_text(json.dumps(about) + "\n", "utf-8")  # last: it says that the rest is there
    return load_expert(folder)


def present_on(courses: StudyCourses) -> NDArray[np.float32]:
    """1 where a finding is on a film: [films, STUDY_FINDINGS], the films of one course after another."""
    rows = []
    for index in range(courses.courses):
        truths = study_truth(courses.course(index), SHOWN_FILMS - 1).findings
        for role in ("prior", "current"):
            images = [getattr(truths[key], role) for key in STUDY_FINDINGS]
            rows.append([float(image is not None and image.present) for image in images])
    return np.array(rows, np.float32)


@torch.inference_mode()
def _features(expert: FilmExpert, films: Sequence[NDArray[np.uint8]]) -> Tensor:
    """The input of the network's heads for square films: [films, JOINED]."""
    given: list[Tensor] = []
    # Caught on the way to the heads, so that the films are prepared as the expert itself prepares them.
    handle = expert.network.mined.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    for start in range(0, len(films), FILMS_AT_ONCE):
        grey = torch.from_numpy(np.stack(films[start : start + FILMS_AT_ONCE]).astype(np.float32))[:, None]
        expert(grey / 255.0 * 2048.0 - 1024.0)
    handle.remove()
    return torch.cat(given).clone()


def fit_heads(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression of each finding [films, findings] on features [films, F]: weight [findings, F], bias."""
    centre, scale = features.mean(0), features.std(0) + 1e-3
    inputs = (features - centre) / scale
    weight = torch.zeros(present.shape[1], inputs.shape[1], requires_grad=True)
    bias = torch.zeros(present.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(inputs @ weight.T + bias, present)
        loss = loss + PENALTY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's types lack it
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's types lack it
    plain = weight.detach() / scale
    return plain, bias.detach() - plain @ centre
