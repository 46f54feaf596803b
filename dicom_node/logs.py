"""The node's log: one structured line per event, ids by context variables, no patient data at INFO and above.

    from dicom_node.logs import bound, get_logger
    log = get_logger(__name__)
    with bound(job="analyse:17", study_pk=17):
        log.info("prior chosen", candidates=3)

Events are constant texts; what varies goes into keys. Our own ids (primary keys, job keys, SOP instance UIDs of our own
documents, AE titles, addresses) may be logged; what names a patient may not, and is removed here as a last fence.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO, cast

from dicom_node.config import LoggingSection
from dicom_node.errors import NodeError

if TYPE_CHECKING:  # imported with the first line: a command that logs nothing need not wait for it
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

__all__ = ["bound", "configure", "get_logger"]


PATIENT_KEYS = frozenset(
    {
        *("patient_id", "patient_name", "patient_birth_date", "birth_date", "patient", "mrn", "other_patient_ids"),
        *("patient_sex", "accession_number", "referring_physician", "header", "dataset", "identifier"),
    }
)
"""Keys whose values never leave at INFO and above, whatever a caller passes."""

QUIET_LOGGERS: Mapping[str, int] = {
    # pynetdicom's INFO and DEBUG lines print whole identifiers and data sets.
    "pynetdicom": logging.ERROR,
    # pydicom quotes the values that it complains about.
    "pydicom": logging.CRITICAL + 1,
    "highdicom": logging.CRITICAL + 1,
    # Both quote what names a patient: the Warning header of an answer, and the query of its address.
    "dicomweb_client": logging.ERROR,
    "urllib3": logging.ERROR,
    "retrying": logging.ERROR,
    "sqlalchemy": logging.WARNING,
    # One line per request would carry search words of the work list.
    "uvicorn.access": logging.CRITICAL + 1,
    "uvicorn": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpcore2": logging.WARNING,
    "apscheduler": logging.WARNING,
    "alembic": logging.WARNING,
    "fontTools": logging.ERROR,
    "fpdf": logging.ERROR,
    "PIL": logging.WARNING,
    "transformers": logging.WARNING,
}


class _ModuleLogger:
    """The logger of a module, made by structlog for each line as it is set up then."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        return getattr(_structlog().get_logger(self._name), method)


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger of a module. Usable before `configure`, which then changes how its lines look."""
    return cast("FilteringBoundLogger", _ModuleLogger(name))


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """Give these ids to every line that is logged inside."""
    from structlog.contextvars import bound_contextvars

    with bound_contextvars(**ids):
        yield


def configure(settings: LoggingSection, *, stream: TextIO | None = None) -> None:
    """Send our own events and those of the libraries to `stream` (default: standard error) in one form.

    Call once per process, at its start.
    """
    number = logging.getLevelNamesMapping()[settings.level.upper()]
    _set_up_later(lambda: _configure_structlog(number))
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_LateFormatter(lambda: _formatter(settings, number)))
    handler.addFilter(_hide_warning_text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name, least in QUIET_LOGGERS.items():
        logging.getLogger(name).setLevel(max(least, number))
    logging.captureWarnings(True)


_setup: Callable[[], None] | None = None
"""The settings that structlog still has to get, once it is imported."""
_setup_lock = threading.Lock()


def _set_up_later(setup: Callable[[], None]) -> None:
    global _setup
    _setup = setup
    if "structlog" in sys.modules:
        _structlog()


def _structlog() -> ModuleType:
    """structlog, imported where it was not and set up as was asked last."""
    global _setup
    import structlog

    if _setup is not None:
        with _setup_lock:
            if _setup is not None:
                _setup()
                _setup = None  # only now: another thread's line waits at the lock until then
    return structlog


def _configure_structlog(number: int) -> None:
    import structlog

    structlog.configure(
        processors=[*_processors(number), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_stdlib_logger,
        cache_logger_on_first_use=False,
    )


def _processors(number: int) -> list[Processor]:
    """The steps of every line, our own and the libraries'."""
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_patient_data,
        structlog.processors.format_exc_info if number <= logging.DEBUG else _exception_without_words,
        _one_line,
    ]


def _formatter(settings: LoggingSection, number: int) -> logging.Formatter:
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_processors(number),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(settings)],
    )


class _LateFormatter(logging.Formatter):
    """A formatter that is made with the first record."""

    def __init__(self, make: Callable[[], logging.Formatter]) -> None:
        super().__init__()
        self._make = make
        self._made: logging.Formatter | None = None

    def format(self, record: logging.LogRecord) -> str:
        if self._made is None:
            self._made = self._make()
        return self._made.format(record)


def _stdlib_logger(*names: str) -> logging.Logger:
    return logging.getLogger(names[0] if names else "dicom_node")


def _renderer(settings: LoggingSection) -> Processor:
    """key=value pairs for people and the journal of systemd, or one JSON object a line for collectors."""
    import structlog

    if settings.format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], bool_as_flag=False, drop_missing=True
    )


def _without_patient_data(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Remove what names a patient from every line at INFO and above."""
    if method == "debug":
        return event
    for key in PATIENT_KEYS & event.keys():
        event[key] = "(removed)"
    return event


def _exception_without_words(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A traceback with the places and kinds of the errors, but with the words of our own errors only.

    A library's error quotes the value that it stumbled over, which may be a patient's name or a database's whole row.
    Cost: some of its words are missed; level "debug" shows them.
    """
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    lines: list[str] = []
    while isinstance(error, BaseException):
        message = f": {error}" if isinstance(error, NodeError) else ""
        places = (
            f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        )
        lines = [*places, f"{type(error).__name__}{message}", *lines]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if lines:
        event["exception"] = "\n".join(lines)
    return event


def _one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep a peer's line breaks and control characters from making lines of their own (log injection)."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)
    return event


def _hide_warning_text(record: logging.LogRecord) -> bool:
    """Python warnings of pydicom and highdicom quote element values; keep only where they came from.

    Cost: a library's warning is less telling in the log; run with `python -W error` to see it whole.
    """
    if record.name == "py.warnings":
        text = record.getMessage()
        record.msg, record.args = "python warning", ()
        location = text.split(": ", 1)[0].splitlines()[0] if ": " in text else ""
        record.msg = f"python warning at {location}" if location else record.msg
    return True


def _log_to_standard_error() -> None:
    import structlog

    structlog.configure(logger_factory=lambda *_names: structlog.PrintLogger(sys.stderr))


# Until `configure`: the standard output of a command may be JSON for a program.
_set_up_later(_log_to_standard_error)
