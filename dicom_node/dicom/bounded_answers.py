"""DICOMweb answers under limits of bytes and time: a gzip bomb, or a byte a second, ends in a sentence."""

from __future__ import annotations

import codecs
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError, ReadTimeoutError

MAX_JSON_BYTES: Final = 64 << 20
"""Of an answer to QIDO-RS or STOW-RS, inflated: 5,000 studies have about 10 MiB."""
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
        is_start = "json" in response.headers.get("Content-Type", "")
        try:
            while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
                self.bytes_read += len(piece)
                if is_start:  # a reader may pass over a byte order mark (RFC 8259 section 8.1); Python's raises
                    piece, is_start = piece.removeprefix(codecs.BOM_UTF8), False
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


def bound_answers(session: requests.Session, limits: AnswerLimits, *, head_seconds: float) -> None:
    """Put the answers of a session under limits; `head_seconds`: until an answer's header is whole."""
    session.hooks["response"] = [limits]
    for scheme in ("http://", "https://"):
        session.mount(scheme, _HeadLimitedAdapter(head_seconds))


class _HeadLimitedAdapter(HTTPAdapter):
    """Connections that are cut where the header of an answer is not whole in time.

    The read time-out of `requests` counts from byte to byte, so a header may drip for days (a hundred lines of 64 KiB).
    """

    def __init__(self, seconds: float) -> None:
        self._head_seconds = seconds
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Have the pools open connections of the classes below."""
        super().init_poolmanager(*arguments, **options)
        seconds = self._head_seconds

        class Plain(_HeadLimited, HTTPConnection):
            head_seconds = seconds

        class Tls(_HeadLimited, HTTPSConnection):
            head_seconds = seconds

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class TlsPool(HTTPSConnectionPool):
            ConnectionCls = Tls

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}


class _HeadLimited:
    """Mixed into a connection: shuts its socket down when the header of an answer takes too long."""

    head_seconds: float
    sock: socket.socket | None

    def getresponse(self) -> Any:
        """As in `http.client`, in time or not at all. Raises urllib3's ProtocolError."""
        is_cut = threading.Event()
        timer = threading.Timer(self.head_seconds, self._cut, (is_cut,))
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()  # type: ignore[misc]  # of the connection that this is mixed into
        finally:
            timer.cancel()
        if is_cut.is_set():  # to http.client a header ends where its connection does
            raise ProtocolError(f"the header of the answer was not whole after {self.head_seconds:g} s")
        return answer

    def _cut(self, is_cut: threading.Event) -> None:
        is_cut.set()
        if self.sock is not None:
            with contextlib.suppress(OSError):  # the answer came to its end in this moment
                self.sock.shutdown(socket.SHUT_RDWR)
