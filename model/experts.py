"""Expert predictions as text: what a classifier of 18 labels says of each image, put into the prompt (LUMEN.md, 5.6).

Off by default: a checkpoint sees the text only where its training did (`Manifest.expert`). The weights come from a
folder and are never fetched; a classifier trained on MIMIC labels leaks into an evaluation on MIMIC, so which one is
used is a setting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from model.errors import CheckpointError, InferenceError
from model.pixels_fit import fit
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


def _dense_net(labels: int) -> nn.Module:
    try:
        from torchxrayvision.models import DenseNet
    except ImportError as error:
        raise CheckpointError("the expert needs TorchXRayVision: pip install 'dicom-node[experts]'") from error
    network: nn.Module = DenseNet(num_classes=labels, in_channels=1)
    return network


BUILDERS: Mapping[str, Builder] = {"torchxrayvision.DenseNet": _dense_net}


class Expert:
    """One classifier. labels: what its outputs mean, in order."""

    def __init__(self, network: nn.Module, labels: Sequence[str]) -> None:
        self.network = network.eval()
        self.labels = tuple(labels)

    @torch.inference_mode()
    def probabilities(self, images: Sequence[DisplayImage]) -> NDArray[np.float32]:
        """float32 [images, labels]. Raises InferenceError where the network gives something else."""
        squares = np.stack([fit(image, SIDE) for image in images]).astype(np.float32)
        grey = torch.from_numpy((squares / 255.0 * 2.0 - 1.0) * _GREATEST)[:, None]
        logits = self.network(grey)
        if logits.shape != (len(images), len(self.labels)):
            raise InferenceError(f"the expert gave {tuple(logits.shape)} for {len(images)} images")
        shares: NDArray[np.float32] = logits.float().sigmoid().numpy()
        if not np.isfinite(shares).all():
            raise InferenceError("the expert gave no numbers")
        return shares

    def text(self, images: Sequence[DisplayImage]) -> str:
        """The line for the prompt. images: as the prompt shows them, the current one last."""
        return expert_text(self.probabilities(images), self.labels)


def expert_text(probabilities: NDArray[Any], labels: Sequence[str] = LABELS, threshold: float = THRESHOLD) -> str:
    """ "expert on the prior image: atelectasis yes, …; expert on the current image: …" of [images, labels]."""
    if probabilities.ndim != 2 or probabilities.shape[1] != len(labels) or not 1 <= len(probabilities) <= 2:
        raise ValueError(f"one or two rows of {len(labels)} probabilities, got {probabilities.shape}")
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
    """The classifier of a folder with `expert.json` {"architecture", "labels"} and `expert.safetensors`.

    Raises CheckpointError naming what is wrong. Nothing is fetched; pickled weights are not read.
    """
    try:
        configuration = json.loads((folder / CONFIGURATION).read_text("utf-8"))
        name, labels = str(configuration["architecture"]), [str(label) for label in configuration["labels"]]
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: no expert: {error}") from error
    if name not in builders:
        raise CheckpointError(f"{folder}: expert architecture {name!r} is unknown; known: {sorted(builders)}")
    network = builders[name](len(labels))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the expert's weights do not fit {name}: {error}") from error
    return Expert(network, labels)
