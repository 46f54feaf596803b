"""The parts of an NVILA checkpoint: vision tower, projector, language model, and the cutting of images."""

from __future__ import annotations

from typing import Any, ClassVar

from model.nvila.transformers_parts import PreTrainedConfig, Qwen2Config, SiglipVisionConfig

PROJECTOR_KINDS = ("mlp_downsample", "mlp_downsample_2x2_fix", "mlp_downsample_3x3_fix")
IMAGE_MODES = ("resize", "dynamic", "dynamic_s2")


class NvilaConfig(PreTrainedConfig):  # type: ignore[misc,unused-ignore]  # a base without types
    """Configuration of `NvilaForConditionalGeneration`.

    vision_config, text_config: of `SiglipVisionModel` and `Qwen2ForCausalLM`.
    projector_type: one of PROJECTOR_KINDS. vision_select_layer: index into the tower's hidden states (original: -2).
    image_aspect_ratio: "resize" (one square tile), "dynamic" (tiles and a thumbnail) or "dynamic_s2" (scales merged).
    s2_scales: tile sides of the scales in pixels, ascending; the first is the tile side itself.
    s2_resize_output_to_scale_idx: which scale's map the others are resized to.
    min_tiles, max_tiles: bounds of columns x rows of the dynamic grid.
    image_token_id: the placeholder of one projected token; it may lie beyond the vocabulary, it is never looked up.
    newline_token_id: the token whose embedding ends each image's sequence.
    longitudinal: None for plain NVILA. Otherwise the settings of `model.nvila.longitudinal`, of which
        "difference_tokens" (appended to the last image where a sample has two) and "no_prior_tokens" (appended where
        it has one) are also read by the processor, because it must place that many more placeholders.
    """

    model_type = "nvila"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {"vision_config": SiglipVisionConfig, "text_config": Qwen2Config}

    vision_config: Any = None
    text_config: Any = None
    projector_type: str = "mlp_downsample"
    vision_select_layer: int = -2
    image_aspect_ratio: str = "resize"
    s2_scales: list[int] | None = None
    s2_resize_output_to_scale_idx: int = 0
    min_tiles: int = 1
    max_tiles: int = 12
    image_token_id: int = 151649
    newline_token_id: int = 198
    longitudinal: dict[str, Any] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.projector_type not in PROJECTOR_KINDS:
            raise ValueError(f"projector_type {self.projector_type!r} is not one of {', '.join(PROJECTOR_KINDS)}")
        if self.image_aspect_ratio not in IMAGE_MODES:
            raise ValueError(f"image_aspect_ratio {self.image_aspect_ratio!r} is not one of {', '.join(IMAGE_MODES)}")
        if self.image_aspect_ratio == "dynamic_s2" and not self.s2_scales:
            raise ValueError("image_aspect_ratio 'dynamic_s2' needs s2_scales")
        if self.s2_scales is not None:
            self.s2_scales = sorted(int(scale) for scale in self.s2_scales)

    @property
    def merge_side(self) -> int:
        """k of the projector: k x k neighbouring patches become one token."""
        return 3 if self.projector_type == "mlp_downsample_3x3_fix" else 2

    @property
    def tile_side(self) -> int:
        """Side of one tile in pixels; the smallest scale where scales are merged (the original overwrites it so)."""
        if self.image_aspect_ratio == "dynamic_s2" and self.s2_scales:
            return int(self.s2_scales[0])
        return int(self.vision_config.image_size)

    @property
    def patch_side(self) -> int:
        """Patches along one side of a tile; leftover pixels are dropped by the convolution."""
        return self.tile_side // int(self.vision_config.patch_size)

    @property
    def token_side(self) -> int:
        """Projected tokens along one side of a tile: the patch side padded up to a multiple of `merge_side`."""
        return -(-self.patch_side // self.merge_side)

    @property
    def scale_count(self) -> int:
        """The number of scales concatenated along the channels; 1 without S2."""
        return len(self.s2_scales or [1]) if self.image_aspect_ratio == "dynamic_s2" else 1
