"""Turn TorchXRayVision's published weights into a folder for `model.experts.expert`: `python -m
model.experts.export FOLDER`.

Needs the extra `experts`. The published files are pickled modules: only this command opens them, never the node.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from model.errors import CheckpointError
from model.experts.expert import CONFIGURATION, WEIGHTS, load_expert

ARCHITECTURE = "torchxrayvision.DenseNet"
DEFAULT_WEIGHTS = "densenet121-res224-nih"
"""Not the one of all sets: that saw MIMIC-CXR."""


def write_expert(
    folder: Path, state: Mapping[str, Tensor], labels: Sequence[str], thresholds: Sequence[float] | None
) -> None:
    """Write the two files and read them back. thresholds: operating points, NaN where a label has none.

    Raises CheckpointError where the folder holds an expert already, or what was written is none.
    """
    if (folder / CONFIGURATION).exists():
        raise CheckpointError(f"{folder} holds an expert already")
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value.contiguous() for name, value in state.items() if name != "op_threshs"}
    save_file(kept, folder / WEIGHTS)
    cuts = [None if math.isnan(value) else float(value) for value in thresholds] if thresholds is not None else None
    configuration: dict[str, Any] = {"architecture": ARCHITECTURE, "labels": list(labels), "thresholds": cuts}
    (folder / CONFIGURATION).write_text(json.dumps(configuration, indent=1) + "\n", "utf-8")
    # Read back at once: what cannot be read should fail here and not at a site.
    load_expert(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS, help="a DenseNet of TorchXRayVision, by its name there")
    parser.add_argument("--cache", help="folder with the .pt file; without it TorchXRayVision fetches it")
    options = parser.parse_args()
    try:
        from torchxrayvision.models import DenseNet, model_urls
    except ImportError as error:
        parser.exit(1, f"this needs TorchXRayVision: pip install 'dicom-node[experts]' ({error})\n")
    if options.weights not in model_urls:
        parser.error(
            f"--weights: {options.weights!r} is none of {sorted(name for name in model_urls if '121' in name)}"
        )
    network = DenseNet(weights=options.weights, cache_dir=options.cache)
    entry = model_urls[options.weights]
    write_expert(options.folder, network.state_dict(), entry["labels"], entry.get("op_threshs"))
    print(f"{options.folder}: {len([label for label in entry['labels'] if label])} labels")


if __name__ == "__main__":
    main()
