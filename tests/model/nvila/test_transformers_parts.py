"""A process with the bundled model imports little of Transformers, and has all of it when something asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

UNUSED = (
    "accelerate",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.attention.flex_attention",
    "transformers.distributed.tensor_parallel",
    "transformers.models.gemma3",
    "transformers.trainer",
)
"""Each takes a tenth of a second to two seconds of CPU."""
MOST_MODULES = 2_000
"""They were 3,220 with everything that Transformers imports of itself."""
SERVE = f"""
import json, sys
import numpy as np
from dicom_node.config import ModelSection
from dicom_node.serving.predictor import load
from model.schema import DisplayImage, SourceGeometry, StudyPair

predictor = load(ModelSection())
where = SourceGeometry(rows=300, columns=300, top=0, left=0, height=300, width=300)
film = DisplayImage(pixels=np.tile(np.linspace(0, 1, 300, dtype=np.float32), (300, 1)), geometry=where)
predictor.predict(StudyPair(current=film, prior=film))
said = {{"modules": len(sys.modules), "imported": [name for name in {UNUSED!r} if name in sys.modules]}}
said["walked"] = [name for name in ("", ".models") if "_has_walked" in vars(sys.modules["transformers" + name])]
"""
TRAIN = """
import torch
import transformers
# Transformers looks for a tokenizer that it does not know among all that are made alike.
said["tokenizers"] = [name for name in ("Qwen2Tokenizer", "NoSuchTokenizer") if hasattr(transformers, name)]
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, Gemma3Config, PreTrainedModel
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
import transformers.distributed.expert_parallel
import transformers.distributed.tensor_parallel as tensor_parallel
from transformers.distributed import mixin
import transformers.masking_utils as masks
from accelerate import Accelerator

said["names"] = len(dir(transformers)) > 3000 and hasattr(transformers.models, "gemma3")
said["unknown"] = hasattr(transformers, "NoSuchModel")
said["styles"] = "colwise" in ALL_PARALLEL_STYLES and "grouped_gemm" in ALL_PARALLEL_STYLES
said["same"] = mixin.apply_tensor_parallelism.__name__ == tensor_parallel.apply_tensor_parallelism.__name__
said["class"] = isinstance(torch.zeros(1), masks.BlockMask) or DTensor.__name__ != "DTensor"
said["compiled"] = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item()
model = torch.nn.Linear(2, 1)
accelerator = Accelerator(cpu=True)
model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
accelerator.backward(model(torch.ones(1, 2)).sum())
optimizer.step()
said["accelerator"] = str(accelerator.distributed_type)
"""


@pytest.fixture(scope="module")
def said() -> Any:
    """The words of a process that first serves and then trains."""
    code = SERVE + TRAIN + "print(json.dumps(said))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_serving_imports_nothing_that_it_does_not_use(said: Any) -> None:
    assert said["imported"] == []
    assert said["walked"] == [], "the sources of all models were read"
    assert said["modules"] <= MOST_MODULES


def test_a_process_that_served_trains_with_the_whole_of_its_libraries(said: Any) -> None:
    expected = {"names": True, "unknown": False, "styles": True, "same": True, "class": False, "compiled": 2.0}
    assert {key: said[key] for key in expected} == expected
    assert said["tokenizers"] == ["Qwen2Tokenizer"]
    assert said["accelerator"] == "DistributedType.NO"
