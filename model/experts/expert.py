"""Expert predictions as text: what a classifier of 18 labels says of each image, put into the prompt (LUMEN.md, 5.6).

Off by default: a checkpoint sees the text only where its training did (`Manifest.expert`). The weights come from a
folder and are never fetched; a classifier trained on MIMIC labels leaks into an evaluation on MIMIC, so which one is
used is a setting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from model.checkpoints.files import sha256_of
from model.errors import CheckpointError, InferenceError
from model.experts.densenet import DenseNet121
from model.experts.film_network import FilmExpert
from model.images.square import fit
from model.schema import DisplayImage

THRESHOLD = 0.5
"""A label is said "yes" from this probability on, as the authors' group words it."""
LABELS = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
)
"""The 18 outputs of TorchXRayVision's "all" DenseNet, in its order."""
SIDE = 224
CONFIGURATION, WEIGHTS = "expert.json", "expert.safetensors"
_GREATEST = 1024.0
"""TorchXRayVision's grey values run from -1024 to 1024."""

Builder = Callable[[int], nn.Module]
"""Number of labels → an untrained network [N, 1, SIDE, SIDE] → logits [N, labels]."""


BUILDERS: Mapping[str, Builder] = {"torchxrayvision.DenseNet": DenseNet121, "dicom-node.FilmNetwork": FilmExpert}


class Expert:
    """One classifier.

    labels: what its outputs mean, in order; "" for an output that was never trained, which is left out everywhere.
    thresholds: operating point of each output, at which its probability is said to be 0.5 (TorchXRayVision's
    `op_threshs`); 0.5 changes nothing. fingerprint: SHA-256 of its files, "" where it came from no folder.
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Sequence[str],
        *,
        thresholds: Sequence[float] | None = None,
        fingerprint: str = "",
    ) -> None:
        self.network = network.eval()
        self.fingerprint = fingerprint
        self._outputs = len(labels)
        # Outputs without a label (training sets that do not have one) are computed and never told.
        self._named = [index for index, label in enumerate(labels) if label]
        self.labels = tuple(labels[index] for index in self._named)
        cuts = thresholds if thresholds is not None else [THRESHOLD] * len(labels)
        self._cuts = np.array([cuts[index] for index in self._named], dtype=np.float32)

    def probabilities(self, images: Sequence[DisplayImage]) -> NDArray[np.float32]:
        """float32 [images, labels]. Raises InferenceError where the network gives something else."""
        return self.probabilities_of_squares(np.stack([fit(image, SIDE) for image in images]))

    @torch.inference_mode()
    def probabilities_of_squares(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same of images that were made SIDE pixels wide and high before: uint8 [images, SIDE, SIDE]."""
        images = squares.astype(np.float32)
        grey = torch.from_numpy((images / 255.0 * 2.0 - 1.0) * _GREATEST)[:, None]
        logits = self.network(grey)
        if logits.shape != (len(images), self._outputs):
            raise InferenceError(f"the expert gave {tuple(logits.shape)} for {len(images)} images")
        shares: NDArray[np.float32] = logits.float().sigmoid().numpy()[:, self._named]
        if not np.isfinite(shares).all():
            raise InferenceError("the expert gave no numbers")
        # Two straight pieces that meet where the operating point becomes 0.5 (TorchXRayVision's `op_norm`).
        return np.where(shares < self._cuts, shares / (2 * self._cuts), 1 - (1 - shares) / (2 * (1 - self._cuts)))

    def text(self, images: Sequence[DisplayImage]) -> str:
        """The line for the prompt. images: as the prompt shows them, the current one last."""
        return expert_text(self.probabilities(images), self.labels)


def expert_text(probabilities: NDArray[Any], labels: Sequence[str] = LABELS, threshold: float = THRESHOLD) -> str:
    """ "expert on the prior image: atelectasis yes, …; expert on the current image: …" of [images, labels]."""
    if probabilities.ndim != 2 or probabilities.shape[1] != len(labels) or not 1 <= len(probabilities) <= 2:
        raise ValueError(f"one or two rows of {len(labels)} probabilities, got {probabilities.shape}")
    # One row is the current image alone.
    names = ("prior", "current")[-len(probabilities) :]
    parts = []
    for name, row in zip(names, probabilities, strict=True):
        words = (
            f"{label.replace('_', ' ').lower()} {'yes' if share >= threshold else 'no'}"
            for label, share in zip(labels, row.tolist(), strict=True)
        )
        parts.append(f"expert on the {name} image: {', '.join(words)}")
    return "; ".join(parts)


def load_expert(folder: Path, builders: Mapping[str, Builder] = BUILDERS) -> Expert:
    """The classifier of a folder with `expert.json` {"architecture", "labels", "thresholds"} and `expert.safetensors`.

    thresholds may be missing, or null for a label: 0.5. Raises CheckpointError naming what is wrong. Nothing is
    fetched; pickled weights are not read.
    """
    try:
        configuration = json.loads((folder / CONFIGURATION).read_text("utf-8"))
        name, labels = str(configuration["architecture"]), [str(label) for label in configuration["labels"]]
        given = configuration.get("thresholds") or [None] * len(labels)
        thresholds = [THRESHOLD if value is None else float(value) for value in given]
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: no expert: {error}") from error
    if len(thresholds) != len(labels) or not all(0.0 < value < 1.0 for value in thresholds):
        raise CheckpointError(f"{folder}: an expert has one threshold between 0 and 1 for each of its labels")
    if not any(labels):
        raise CheckpointError(f"{folder}: the expert names no label")
    if name not in builders:
        raise CheckpointError(f"{folder}: expert architecture {name!r} is unknown; known: {sorted(builders)}")
    network = builders[name](len(labels))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the expert's weights do not fit {name}: {error}") from error
    # Over both files: other thresholds make another expert, even with the same weights.
    prints = "".join(sha256_of(folder / file) for file in (CONFIGURATION, WEIGHTS))
    fingerprint = hashlib.sha256(prints.encode()).hexdigest()
    return Expert(network, labels, thresholds=thresholds, fingerprint=fingerprint)
