"""The exceptions of `model`: everything that a caller of this package may have to catch."""

from __future__ import annotations


class ModelError(Exception):
    """Root of what `model` raises on purpose."""


class PixelError(ModelError):
    """The stored object gives no display image; the message says why in words fit for a report."""


class CheckpointError(ModelError):
    """A checkpoint folder is missing, incomplete, tampered with or of an unknown kind."""


class UnknownCheckpointError(CheckpointError):
    """The models folder holds no checkpoint by this name; the message names those that it holds."""


class InferenceError(ModelError):
    """The model could not answer a pair: out of memory, time-out, broken remote server."""


class RefusedRequestError(InferenceError):
    """A server refuses this one request for good, such as one that is too long; others may be answered."""


class LabellerError(ModelError):
    """A report could not be labelled, or a file of labelled sentences is malformed."""
