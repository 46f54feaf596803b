"""`dicom-node config`: is the configuration file in order?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from dicom_node.cli.common import ConfigOption, JsonOption, console, errors, print_json
from dicom_node.config import Destination, QueryPeer, Settings, config_path, load_settings
from dicom_node.errors import ConfigurationError

MADE_BY_THE_NODE = frozenset({"node.data_dir", "retrain.folder"})
"""Keys of folders that need not exist."""


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration file without starting anything.

    Exit 2 if a key or a value is not allowed, naming each with the allowed values; exit 1 if a file that it names is
    missing. `doctor` checks that peers answer, disks have room and the model loads.
    """
    path = config_path(config)
    from dicom_node.serving.promotion import ModelsError, require_model  # heavier than the configuration itself

    try:
        settings = load_settings(path)
        require_model(settings)
    except (ConfigurationError, ModelsError) as error:
        lines = str(error).removeprefix(f"{path}:").splitlines()
        _show(path, wrong=[line.strip() for line in lines if line.strip()], missing=[], notes=[], as_json=as_json)
        raise typer.Exit(2) from error
    missing = [f"{key}: {file} is missing" for key, file in _named_files(settings, "") if not file.exists()]
    _show(path, wrong=[], missing=missing, notes=list(_notes(settings)), as_json=as_json)
    if missing:
        raise typer.Exit(1)


def _named_files(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    """(key, path) of every file that must be there."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _named_files(getattr(value, name), f"{key}.{name}".lstrip("."))
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            yield from _named_files(each, f"{key}[{number}]")
    elif isinstance(value, Path) and key not in MADE_BY_THE_NODE:
        yield key, value


def _notes(settings: Settings) -> Iterator[str]:
    """Settings that are allowed and probably not meant."""
    if not settings.destinations:
        yield "no [[destinations]]: results are kept and sent nowhere"
    for destination in settings.destinations:
        yield from _address_by_default(f"destination {destination.name!r}", destination)
    for peer in settings.query:
        yield from _address_by_default(f"query peer {peer.name!r}", peer)
    if not settings.query:
        yield "no [[query]]: only priors that were sent or imported are compared with"
    if settings.web.enabled and not settings.web.users:
        yield "no [[web.users]]: nobody can open the pages (make a hash: dicom-node web-password)"


def _address_by_default(name: str, peer: Destination | QueryPeer) -> Iterator[str]:
    absent = [key for key in ("ae_title", "host", "port") if key not in peer.model_fields_set]
    if peer.url is None and absent:
        yield f"{name} has no {' and no '.join(absent)}: {peer.ae_title} at {peer.host}, port {peer.port}, is meant"


def _show(path: Path, *, wrong: list[str], missing: list[str], notes: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"file": str(path), "valid": not wrong, "wrong": wrong, "missing": missing, "notes": notes})
        return
    for line in (*wrong, *missing):
        errors.print(f"{path}: {line}")
    for line in notes:
        console.print(f"note: {line}")
    if not wrong and not missing:
        console.print(f"{path}: in order")


def register(app: typer.Typer) -> None:
    """Add `config check`."""
    group = typer.Typer(help="Check the configuration file.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command()(check)
    app.add_typer(group, name="config")
