"""Options, and the handling of errors, that the commands on training share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import errors
from dicom_node.errors import NodeError, UsageError
from model.errors import ModelError
from training.records.drops import DataError

if TYPE_CHECKING:  # torch is imported by the commands that need it, not by the command line
    from model.remote.text_model import TextModel
    from training.records.record import Split


def _require_data(words: str) -> str:
    """Refuse what names no data set while the options are read."""
    from training.data.datasets import parse_spec

    try:
        parse_spec(words)
    except DataError as error:
        raise UsageError(f"--data {error}") from error
    return words


DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help='Data set, for example "phantom:200", "nih:FOLDER", "ms-cxr-t:FOLDER,IMAGES".',
        callback=_require_data,
    ),
]


def _require_split(word: str) -> str:
    """Refuse a wrong split while the options are read: before torch is imported and a model loaded."""
    split_of(word)
    return word


SplitOption = Annotated[
    str,
    typer.Option(
        help='Split: "train", "validate" (or "val", "dev"), "test", "fixture" or "all".', callback=_require_split
    ),
]


def _require_checkpoint(option: typer.CallbackParam, source: str) -> str:
    """Refuse a checkpoint that is not there while the options are read: before torch, data and processes."""
    from model.checkpoints.registry import resolve_source

    with our_errors():
        folder = Path(resolve_source(source))
    if source and not folder.is_dir():
        raise UsageError(
            f'{option.opts[0]} {source}: there is no such folder; give "demo", the folder of a checkpoint, or a models'
            " folder"
        )
    return source


ModelOption = Annotated[str, typer.Option(help='Checkpoint: "demo" or a folder.', callback=_require_checkpoint)]
ZeroShotOption = Annotated[
    str,
    typer.Option(help="Baseline: the folder of a model that was not tuned to the task.", callback=_require_checkpoint),
]
ServerOption = Annotated[str, typer.Option(help="OpenAI-compatible server of the text model, with its /v1.")]
TextModelOption = Annotated[
    str, typer.Option(help="Text model: a name on the server, or a local folder or Hub id without one.")
]


def text_model_of(server: str, name: str) -> TextModel | None:
    """The text model that was named: on a server, or local; None where none was."""
    from model.remote.client import ServerClient
    from model.remote.text_model import LocalText, ServerText

    if server and not name:
        raise UsageError("a server needs the name of one of its models as well")
    if server:
        return ServerText(ServerClient(server, api_key=os.environ.get("OPENAI_API_KEY")), name)
    return LocalText(name) if name else None


def split_of(word: str) -> Split | None:
    """The split of an option, None for "all"."""
    from training.readers.mimic import SPLIT_WORDS

    if word == "all":
        return None
    if word not in SPLIT_WORDS:
        raise UsageError(f"--split is one of all, {', '.join(sorted(SPLIT_WORDS))}; not {word!r}")
    return SPLIT_WORDS[word]


def no_bars_in_files() -> None:
    """Transformers draws its bar while it loads weights wherever standard error goes; ours stand on terminals only."""
    from transformers.utils import logging as transformers_logging

    if not errors.is_terminal:
        transformers_logging.disable_progress_bar()


@contextmanager
def our_errors() -> Iterator[None]:
    """Errors of `model` and `training` leave the command line as ours: one sentence, and exit status 1, or 2 where a
    recipe cannot be run."""
    try:
        yield
    except (DataError, ModelError) as error:
        from training.recipe.recipe import RecipeError

        if isinstance(error, RecipeError):
            raise UsageError(str(error)) from error
        raise NodeError(str(error)) from error
