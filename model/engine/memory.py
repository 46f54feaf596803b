"""The many errors by which a lack of memory is told, as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import InferenceError


@contextmanager
def failures_of_memory() -> Iterator[None]:
    """Raise InferenceError in the place of the many errors by which memory says that there is none left."""
    try:
        yield
    except MemoryError as error:
        raise InferenceError("the model ran out of memory") from error
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in ("memory", "allocate")):
            raise
        raise InferenceError(f"the model ran out of memory: {error}") from error
