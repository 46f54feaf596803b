"""Checkpoint folders: the original three-folder layout (read, written) and the one of `save_pretrained` (read)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.errors import CheckpointError
from model.nvila.configuration import NvilaConfig
from model.nvila.modeling import NvilaForConditionalGeneration
from model.nvila.processing import IMAGE_TOKEN, NvilaProcessor, add_media_tokens, geometry_of
from model.nvila.processing_check import refuse_other_processing
from model.nvila.transformers_parts import (
    AutoTokenizer,
    GenerationConfig,
    Qwen2Config,
    SiglipVisionConfig,
    unused_parts_deferred,
)

ORIGINAL_TYPE = "llava_llama"
PARTS = ("llm", "mm_projector", "vision_tower")
_DERIVED = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Buffers that old files may hold and that are computed anew."""


def load_nvila(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> tuple[NvilaForConditionalGeneration, NvilaProcessor]:
    """Load a checkpoint folder of either layout, ready for inference (eval mode).

    Weights are read tensor by tensor, so no second copy is held. Raises CheckpointError naming what is wrong.
    """
    folder = Path(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind == NvilaConfig.model_type:
        # An empty model is built first, and torch would import its compiler to draw values that are never seen.
        with unused_parts_deferred():
            model, info = NvilaForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[what]:
                raise CheckpointError(f"{folder}: {what.replace('_', ' ')}: {sorted(map(str, info[what]))[:5]}")
        return in_memory(model.to(device)).eval(), NvilaProcessor.from_pretrained(folder)
    if kind != ORIGINAL_TYPE:
        raise CheckpointError(
            f"{folder}: model_type {kind!r} is no NVILA ({ORIGINAL_TYPE} or {NvilaConfig.model_type})"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    add_media_tokens(tokenizer)
    config = original_config(folder, tokenizer)
    from accelerate import init_empty_weights  # half a second, for this layout alone

    with init_empty_weights(include_buffers=False):
        model = NvilaForConditionalGeneration(config)
    _load_parts(model, folder, dtype, device)
    model.to(device).eval()  # the buffers; every parameter is there already
    model.generation_config = generation_config(tokenizer)
    return model, NvilaProcessor(tokenizer, geometry_of(config))


def in_memory(model: Any) -> Any:
    """The same model, no weight of which lies in a file any more.

    Transformers maps the files of weights that need no conversion. Who overwrote one of them while the model serves
    would change its answers, and reports would go on naming the bytes that were verified.
    """
    if model.device.type == "cpu":
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    return model


def original_config(folder: Path, tokenizer: Any) -> NvilaConfig:
    """Our configuration from the original's four config.json files."""
    top = read_json(folder / "config.json")
    vision = read_json(folder / "vision_tower" / "config.json")
    projector = read_json(folder / "mm_projector" / "config.json")
    keys = {key for key, _ in _part_keys(folder / "vision_tower")}
    vision["vision_use_head"] = any(".head." in f".{key}" for key in keys)
    mode = top.get("image_aspect_ratio") or "resize"
    if top.get("dynamic_s2"):
        mode = "dynamic_s2"
    if top.get("s2") or top.get("ps3"):
        raise CheckpointError(f"{folder}: image processing 's2' or 'ps3' is not supported, only dynamic_s2")
    if top.get("mm_vision_select_feature", "cls_patch") != "cls_patch":
        raise CheckpointError(f"{folder}: mm_vision_select_feature must be 'cls_patch'")
    preprocessor = folder / "vision_tower" / "preprocessor_config.json"
    described = read_json(preprocessor) if preprocessor.is_file() else {}
    refuse_other_processing(folder, top, described, int(vision.get("image_size", 0)))
    scales = [int(scale) for scale in str(top.get("s2_scales") or "").split(",") if scale.strip()]
    try:
        return NvilaConfig(
            vision_config=SiglipVisionConfig.from_dict(vision),
            text_config=Qwen2Config.from_dict(read_json(folder / "llm" / "config.json")),
            projector_type=projector["mm_projector_type"],
            vision_select_layer=top.get("mm_vision_select_layer", -2),
            image_aspect_ratio=mode,
            s2_scales=scales if mode == "dynamic_s2" else None,
            s2_resize_output_to_scale_idx=top.get("s2_resize_output_to_scale_idx", 0),
            min_tiles=top.get("min_tiles", 1),
            max_tiles=top.get("max_tiles", 12),
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            newline_token_id=tokenizer("\n", add_special_tokens=False).input_ids[0],
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def generation_config(tokenizer: Any) -> GenerationConfig:
    """Plain greedy decoding, as the original: llm/generation_config.json is ignored, with its repetition penalty."""
    return GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=stop_token_ids(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        max_length=int(min(tokenizer.model_max_length, 2**31 - 1)),
    )


def stop_token_ids(tokenizer: Any) -> list[int]:
    """The end token and the token that follows an assistant's message in the chat template."""
    stops = [tokenizer.eos_token_id]
    marker = "ANSWER"
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": marker}]
    rendered = tokenizer.apply_chat_template(talk, tokenize=False)
    after = tokenizer(rendered.rsplit(marker, 1)[1], add_special_tokens=False).input_ids
    if after and after[0] not in stops and after[0] in tokenizer.all_special_ids:
        stops.append(after[0])
    return stops


def save_nvila(folder: str | Path, model: NvilaForConditionalGeneration, processor: NvilaProcessor) -> None:
    """Write the original three-folder layout (for SGLang and the original code). Refuses longitudinal extras."""
    if model.longitudinal is not None:
        raise CheckpointError("the original layout has no place for longitudinal extras; use save_pretrained")
    folder = Path(folder)
    config = model.config
    dtype = str(model.dtype).removeprefix("torch.")
    parts = {
        "llm": (model.llm, "", config.text_config.to_dict()),
        "vision_tower": (model.vision_tower, "vision_model.", config.vision_config.to_dict()),
        "mm_projector": (
            model.mm_projector,
            "",
            {"model_type": "v2l_projector", "mm_projector_type": config.projector_type},
        ),
    }
    for name, (module, prefix, values) in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        tied = name == "llm" and config.text_config.tie_word_embeddings
        state = {
            prefix + key: tensor.detach().cpu().contiguous()
            for key, tensor in module.state_dict().items()
            # One matrix under two names: safetensors refuses shared memory, and the loader ties them again.
            if not (tied and key == "lm_head.weight")
        }
        save_file(state, folder / name / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / name / "config.json", values)
    processor.tokenizer.save_pretrained(folder / "llm")
    _write_json(folder / "vision_tower" / "preprocessor_config.json", _siglip_preprocessor(config))
    _write_json(folder / "config.json", _original_top(config, dtype))


def _original_top(config: NvilaConfig, dtype: str) -> dict[str, Any]:
    scales = ",".join(str(scale) for scale in config.s2_scales or [])
    return {
        "architectures": ["LlavaLlamaModel"],
        "model_type": ORIGINAL_TYPE,
        "hidden_size": config.text_config.hidden_size,
        "mm_hidden_size": config.vision_config.hidden_size * config.scale_count,
        "mm_vision_select_layer": config.vision_select_layer,
        "mm_vision_select_feature": "cls_patch",
        "image_aspect_ratio": config.image_aspect_ratio,
        "dynamic_s2": config.image_aspect_ratio == "dynamic_s2",
        "s2": False,
        "s2_scales": scales,
        "s2_resize_output_to_scale_idx": config.s2_resize_output_to_scale_idx,
        "min_tiles": config.min_tiles,
        "max_tiles": config.max_tiles,
        "chat_template": None,
        "model_dtype": f"torch.{dtype}",
    }


def _siglip_preprocessor(config: NvilaConfig) -> dict[str, Any]:
    side = config.vision_config.image_size
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": side, "width": side},
    }


def _load_parts(
    model: NvilaForConditionalGeneration, folder: Path, dtype: torch.dtype, device: str | torch.device
) -> None:
    """Read each part's tensors into the empty model; every parameter must be there and nothing else may."""
    for name in PARTS:
        module: nn.Module = getattr(model, name)
        missing = {key for key, _ in module.named_parameters(remove_duplicate=False)}
        if name == "llm" and model.config.text_config.tie_word_embeddings:
            missing.discard("lm_head.weight")
        for key, tensor in _part_tensors(folder / name):
            if key not in missing:
                # Derived tensors (rotary frequencies, position ids) and a tied output, which some writers save all the
                # same.
                if key.endswith(_DERIVED) or key == "lm_head.weight":
                    continue
                raise CheckpointError(f"{folder / name}: unexpected or repeated tensor {key!r}")
            missing.discard(key)
            _assign(module, key, tensor.to(device=device, dtype=dtype), f"{folder / name}")
        if missing:
            raise CheckpointError(f"{folder / name}: {len(missing)} tensors are missing, first {min(missing)!r}")
    model.tie_weights()
    model.config.dtype = dtype


def _assign(module: nn.Module, key: str, tensor: Tensor, where: str) -> None:
    path, _, leaf = key.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, leaf)
    if old.shape != tensor.shape:
        raise CheckpointError(f"{where}: {key!r} has shape {list(tensor.shape)}, expected {list(old.shape)}")
    setattr(owner, leaf, nn.Parameter(tensor))


def _part_files(part: Path) -> list[Path]:
    """The safetensors files of one part: those of the index, or the single one."""
    index = part / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        # The index is data of the checkpoint: "../x" in it would read elsewhere.
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index}: names a file outside its folder")
        return [part / name for name in names]
    return [part / "model.safetensors"]


def _part_keys(part: Path) -> Iterator[tuple[str, Path]]:
    for file in _part_files(part):
        try:
            with safe_open(file, "pt") as handle:
                for key in handle.keys():  # noqa: SIM118 (a safetensors handle, not a mapping)
                    yield key, file
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: not a readable safetensors file ({error})") from error


def _part_tensors(part: Path) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a part in turn, read from disk and not mapped, under the name that the module has for it."""
    for file in _part_files(part):
        try:
            with safe_open(file, "pt", backend="pread") as handle:
                for key in handle.keys():  # noqa: SIM118 (as above)
                    # Transformers 5 dropped the wrapper level of SiglipVisionModel.
                    yield key.removeprefix("vision_model."), handle.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: not a readable safetensors file ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint; raises CheckpointError naming the file."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return value


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, default=str) + "\n", "utf-8")
