"""A recipe as a manifest may carry it: what was done, without the paths of the machine on which it was done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoints.files import MANIFEST_NAME, sha256_of

_PATHS = frozenset({"cache", "instructions", "expert", "image_cache", "features", "long_answers", "heads"})
_HASHED_BYTES = 4 << 30
"""Of a start without a manifest the weights are hashed up to this size, beyond it their names and sizes are."""


def public_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with every path reduced to its last name, and the start to name, identity and hash."""
    public = {section: dict(values) if isinstance(values, Mapping) else values for section, values in recipe.items()}
    # Paths name people, projects and machines; a manifest goes out with the checkpoint.
    for section in ("model", "data"):
        values = public.get(section, {})
        for key in _PATHS & set(values):
            if values[key]:
                values[key] = Path(str(values[key])).name
    start = public.get("model", {}).get("start")
    if isinstance(start, str) and start != "new":
        public["model"]["start"] = start_identity(start)
    if public.get("data", {}).get("sets"):
        public["data"]["sets"] = [_public_set(item) for item in public["data"]["sets"]]
    return public


def start_identity(start: str) -> str:
    """The start of a run: "NAME VERSION DEVICE_UID" of a checkpoint with a manifest, else "NAME sha256:…"."""
    folder = Path(start)
    if not folder.is_dir():
        return folder.name if folder.is_absolute() else start  # a Hub id, or a folder that is gone
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
        return f"{manifest['name']} {manifest['version']} {manifest['device_uid']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder.name} sha256:{_digest(folder)}"


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = sum(path.stat().st_size for path in files) <= _HASHED_BYTES
    digest = hashlib.sha256()
    for path in files:
        content = sha256_of(path) if whole or path.suffix == ".json" else str(path.stat().st_size)
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _public_set(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    kind, _, places = str(item.get("data", "")).partition(":")
    names = ",".join(Path(path).name for path in places.split(","))
    public = dict(item) | {"data": f"{kind}:{names}"}
    if public.get("long_answers"):
        public["long_answers"] = Path(str(public["long_answers"])).name
    return public
