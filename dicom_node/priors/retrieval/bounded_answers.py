"""HTTP answers of an archive under limits of bytes and time: a gzip bomb, or a byte a second, ends in a sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import requests
from urllib3.exceptions import DecodeError, HTTPError, ReadTimeoutError

MAX_JSON_BYTES: Final = 64 << 20
"""Of a QIDO-RS answer, inflated: 5,000 studies have about 10 MiB."""
MAX_PART_BYTES: Final = 512 << 20
"""Of one object of a WADO-RS answer; the largest film that is decoded has 128 MiB."""
MAX_RETRIEVE_SECONDS: Final = 3600.0
"""Of a whole retrieval, however steadily it drips."""
_PIECE_BYTES: Final = 64 << 10


class AnswerTooLongError(requests.RequestException):
    """An answer has more bytes, or took more time, than is allowed."""


@dataclass(slots=True, kw_only=True)
class AnswerLimits:
    """The limits of one answer. `bytes_read` is set back to 0 where an object of the answer is whole.

    Used as a response hook of a `requests.Session`.
    """

    most_bytes: int
    most_seconds: float
    bytes_read: int = 0
    _deadline: float = field(init=False, default=0.0)

    def __call__(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Have the answer's body read by `_pieces`."""
        self.bytes_read, self._deadline = 0, time.monotonic() + self.most_seconds

        def iter_content(chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[bytes]:
            return self._pieces(response)

        response.iter_content = iter_content  # type: ignore[method-assign]  # requests reads a body by this alone

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The inflated body as it arrives. `read` would wait until so much is there, and never look at the clock."""
        try:
            while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
                self.bytes_read += len(piece)
                if self.bytes_read > self.most_bytes:
                    raise AnswerTooLongError(f"more than {self.most_bytes >> 20} MiB")
                if time.monotonic() > self._deadline:
                    raise AnswerTooLongError(f"not whole after {self.most_seconds:g} s")
                yield piece
        except ReadTimeoutError as error:
            raise requests.ConnectionError(error) from error
        except DecodeError as error:
            raise requests.exceptions.ContentDecodingError(error) from error
        except HTTPError as error:
            raise requests.exceptions.ChunkedEncodingError(error) from error
        finally:
            response.close()
