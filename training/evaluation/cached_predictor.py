"""A predictor whose answers are kept on disk, so that an evaluation that was killed goes on and says the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from model.schema import ModelIdentity, Prediction, StudyPair
from training.evaluation.evaluate import EvaluatedPredictor

_PREDICTION = TypeAdapter(Prediction)


class CachedPredictor:
    """Asks `load()`'s predictor only what the file does not hold yet. The file belongs to one checkpoint.

    between: called before each new answer; may raise to stop. Not for several processes on one file.
    """

    def __init__(
        self,
        path: Path,
        identity: ModelIdentity,
        load: Callable[[], EvaluatedPredictor],
        *,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._identity = identity
        self._load = load
        self._between = between
        self._predictor: EvaluatedPredictor | None = None
        self._known = self._read()

    @property
    def identity(self) -> ModelIdentity:
        """The checkpoint that answers."""
        return self._identity

    @property
    def known(self) -> int:
        """The number of answers in the file."""
        return len(self._known)

    def predict(self, pair: StudyPair) -> Prediction:
        """Answer one pair, from the file where it is there."""
        key = _key(pair)
        if key not in self._known:
            self._between()
            if self._predictor is None:
                self._predictor = self._load()
            prediction = self._predictor.predict(pair)
            self._append({"key": key, "said": _PREDICTION.dump_python(prediction, mode="json")})
            # read back, so that an answer from memory and one from the file are the same to the last digit
            self._known[key] = _PREDICTION.validate_json(_PREDICTION.dump_json(prediction))
        return self._known[key]

    def _append(self, line: dict[str, Any]) -> None:
        """Durable before it counts: one line, whole or cut off, never in the middle of another."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"device_uid": self._identity.device_uid} | line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> dict[str, Prediction]:
        """Read the answers of this very checkpoint; a last line that was cut off is cut away."""
        if not self._path.is_file():
            return {}
        predictions: dict[str, Prediction] = {}
        whole = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    entry = json.loads(line)
                    if entry["device_uid"] == self._identity.device_uid:
                        predictions[entry["key"]] = _PREDICTION.validate_python(entry["said"])
                except (ValueError, KeyError, ValidationError):
                    continue
        os.truncate(self._path, whole)
        return predictions


def _key(pair: StudyPair) -> str:
    """Names a pair by what the model sees of it."""
    digest = hashlib.sha256()
    for image in (pair.current, pair.prior):
        if image is not None:
            digest.update(repr(image.pixels.shape).encode())
            digest.update(image.pixels.tobytes())
        digest.update(b"|")
    if pair.context is not None:
        digest.update(repr(pair.context).encode())
    return digest.hexdigest()
