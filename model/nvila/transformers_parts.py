"""The parts of Transformers that NVILA is made of, imported without what serving it does not use.

The plain imports of Qwen2 and SigLIP take 5.5 s of CPU on this project's machine. Most of that is tensor parallelism,
torch's compiler, accelerate and two walks over the sources of all models. These imports are put off until somebody uses
them. Nothing is left out: training in the same process has all of it. (Transformers' own tensor and expert parallelism,
which nothing here uses, knows the names of its styles once their two modules are imported.)
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from model.deferred_imports import deferred_imports
from model.nvila.transformers_package import postponed_walk

DEFERRED: Final = (
    "accelerate",
    "scipy",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed._composable",
    "torch.distributed._functional_collectives",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.attention.flex_attention",
    "transformers.distributed.expert_parallel",
    "transformers.distributed.tensor_parallel",
    "transformers.generation.candidate_generator",
)
"""Modules that Transformers and torch import while a model is loaded but that inference on one machine never uses."""
MARKS: Final = ("torch._dynamo.allow_in_graph", "torch._dynamo.assume_constant_result", "torch._dynamo.disable")
"""Decorators that tell torch's compiler how to treat a function. Here they leave it as it is.

They stand at kernels of experts, at paged attention, and in torch's own code for tensors without data. It matters only
to `torch.compile`, which nothing here calls; a process that does imports `torch._dynamo` before this module.
"""


def unused_parts_deferred() -> AbstractContextManager[None]:
    """Defer the imports of what neither loading nor asking a model needs, for a block."""
    return deferred_imports(DEFERRED, marks=MARKS)


with postponed_walk(), unused_parts_deferred():
    from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.feature_extraction_utils import BatchFeature
    from transformers.generation.configuration_utils import GenerationConfig
    from transformers.generation.utils import GenerationMixin
    from transformers.initialization import no_init_weights
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.modeling_auto import AutoModelForImageTextToText
    from transformers.models.auto.processing_auto import AutoProcessor
    from transformers.models.auto.tokenization_auto import AutoTokenizer
    from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import (
        Qwen2ForCausalLM,
        apply_rotary_pos_emb,
        eager_attention_forward,
    )
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionModel
    from transformers.processing_utils import ProcessorMixin
    from transformers.utils.generic import ModelOutput

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "AutoConfig",
    "AutoModelForImageTextToText",
    "AutoProcessor",
    "AutoTokenizer",
    "BatchFeature",
    "Cache",
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "GenerationConfig",
    "GenerationMixin",
    "ModelOutput",
    "PreTrainedConfig",
    "PreTrainedModel",
    "ProcessorMixin",
    "Qwen2Config",
    "Qwen2ForCausalLM",
    "SiglipVisionConfig",
    "SiglipVisionModel",
    "apply_rotary_pos_emb",
    "eager_attention_forward",
    "no_init_weights",
    "unused_parts_deferred",
]
