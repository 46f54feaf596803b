"""Opening a folder or a Hub id by Transformers' Auto classes, also where a video part wants what is not installed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from model.errors import CheckpointError
from model.nvila.checkpoint import read_json
from model.nvila.transformers_parts import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

_OPENING = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)
"""The errors of Transformers on folders that lack a file or hold another model's."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
CROSS_ATTENDING = ("mllama", "mllama_text_model", "idefics")
"""Families whose images are no part of the sequence: a prefix that is read once cannot be shared between questions."""


def load_auto(folder: Path, *, trust_remote_code: bool = False, **options: Any) -> tuple[Any, Any]:
    """Model and processor by Transformers' Auto classes; options go to `from_pretrained`.

    Raises CheckpointError where they cannot be opened, and where the files lack a weight: Transformers would draw it by
    chance, warn, and the model would answer.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind in CROSS_ATTENDING:
        raise CheckpointError(
            f"{folder}: {kind} looks at images by cross-attention, which is not supported; take a model that reads them"
            " as tokens (docs/models.md)"
        )
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
        )
        processor = load_processor(folder, trust_remote_code=trust_remote_code)
    except (*_OPENING, SafetensorError) as error:
        raise CheckpointError(f"{folder}: Transformers cannot open it: {error}") from error
    for what in ("missing_keys", "mismatched_keys"):
        if info[what]:
            raise CheckpointError(f"{folder}: {what.replace('_', ' ')}: {sorted(map(str, info[what]))[:5]}")
    return model, processor


def local_folder(source: str | Path, *, revision: str | None, trust_remote_code: bool = False) -> Path:
    """The folder of a source; a Hub id is fetched at exactly one commit, without pickles and without foreign code."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if revision is None or not _COMMIT.fullmatch(revision):
        raise CheckpointError(
            f"{source}: there is no such folder; a Hub id needs `revision`, the 40 hexadecimal digits of a commit"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Weights as safetensors only: a pickle runs code when it is loaded.
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"] + (["*.py"] if trust_remote_code else [])
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"{source}@{revision}: cannot be fetched: {error}") from error


def load_processor(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The checkpoint's processor; where its video part wants torchvision, the same class without that part.

    torchvision is not among our dependencies: its resize differs from PIL's and nothing here shows films.
    """
    try:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ImportError, ValueError, OSError) as error:
        # transformers has no exception of its own for this, so the message must tell it.
        if "video" not in str(error).lower() and "torchvision" not in str(error).lower():
            raise
        stock = _processor_class(folder)
        if stock is None or "video_processor" not in stock.get_attributes():
            raise
    return without_video(stock).from_pretrained(folder)


def without_video(stock: Any) -> Any:
    """A subclass of a processor class that neither loads nor expects the video part."""

    parts = [name for name in stock.get_attributes() if name != "video_processor"]
    takes_video = "video_processor" in inspect.signature(stock.__init__).parameters

    class Parts(ProcessorMixin):  # type: ignore[misc,unused-ignore]  # bases without types
        """Stands behind the stock class, which hands all its parts on to its base."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            given = dict(zip(stock.get_attributes(), arguments, strict=False)) | named
            given.pop("video_processor", None)
            super().__init__(**given)

    class WithoutVideo(stock, Parts):  # type: ignore[misc,unused-ignore]  # bases without types
        @classmethod
        def get_attributes(cls) -> list[str]:
            return parts

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            # The stock class may want it as an argument of its own; its settings in the file are of no use either.
            video = {"video_processor": None} if takes_video else {}
            return super().from_args_and_dict(args, processor_dict | video, **kwargs)

    WithoutVideo.__name__ = stock.__name__
    return WithoutVideo


def _processor_class(folder: Path) -> Any:
    from transformers.models.auto.processing_auto import processor_class_from_name

    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (class_name := read_json(folder / name).get("processor_class")):
            return processor_class_from_name(class_name)
    return None
