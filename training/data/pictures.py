"""The square pictures of records' images: decoded by `model.images.display`, fitted, and kept on disk where that is
wanted."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.images.square import fit
from training.data.datasets import load_image
from training.records.record import ImageRef

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """size: side in pixels. cache: folder for decoded pictures, size² bytes each, or None.

    A kept picture is found by its file's name, size and time of change: another file is decoded anew.
    """

    size: int
    cache: Path | None = None

    def get(self, image: ImageRef) -> NDArray[np.uint8]:
        """uint8 [size, size]. Raises PixelError where the image gives no picture."""
        if self.cache is None:
            return fit(load_image(image), self.size)
        kept = self.cache / self._name(image)
        try:
            picture: NDArray[np.uint8] = np.load(kept)
            if picture.shape == (self.size, self.size) and picture.dtype == np.uint8:
                return picture
        except (OSError, ValueError, EOFError):
            pass  # not there yet, or cut off by a full disc: it is made below either way
        picture = fit(load_image(image), self.size)
        self._keep(kept, picture)
        return picture

    def _name(self, image: ImageRef) -> str:
        try:
            about = Path(image.key).stat()
            state = f"{about.st_size} {about.st_mtime_ns}"
        except OSError:
            state = ""
        digest = hashlib.sha256(f"{_FORMAT} {self.size} {image.key} {state}".encode()).hexdigest()
        return f"{digest[:2]}/{digest}.npy"

    def _keep(self, path: Path, picture: NDArray[np.uint8]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.save(file, picture)
        temporary.replace(path)
