"""The configuration as the file has it now, tried before anything that runs is ended for it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from dicom_node.config import Settings
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.logs import get_logger
from dicom_node.serving.promotion import require_model

log = get_logger(__name__)


def read_new_settings(
    settings: Settings, reload: Callable[[], Settings], *, receives: bool, works: bool
) -> Settings | None:
    """The settings that `reload` reads; None, with the reason in the log, where the node could not run with them.

    Parameters
    ----------
    settings
        Those that the node runs with.
    reload
        Reads the file; raises ConfigurationError.
    receives, works
        Which parts this process runs, and so which of the settings it needs.
    """
    try:
        fresh = reload()
        _require_same_place(settings, fresh)
        if works:
            require_model(fresh)
        if receives:
            from dicom_node.receive.listeners import require_certificates

            require_certificates(fresh)
        # Only those that are new: the old ones are in use, by ourselves.
        for key, host, port in sorted(_addresses(fresh, receives) - _addresses(settings, receives)):
            _require_free(key, host, port)
    except (ConfigurationError, NodeError) as error:
        log.error("configuration not reloaded: the old one stays in force", error=str(error))
        return None
    log.info("configuration reloaded")
    return fresh


def _require_same_place(settings: Settings, fresh: Settings) -> None:
    fixed = (fresh.node.data_dir, fresh.database, fresh.storage)
    if fixed != (settings.node.data_dir, settings.database, settings.storage):
        raise ConfigurationError(
            "node.data_dir, [database] and [storage] cannot be changed while the node runs; restart it for that"
        )


def _addresses(settings: Settings, receives: bool) -> set[tuple[str, str, int]]:
    """(key, host, port) of everything that listens; a port of 0 is any free one."""
    addresses = {("web.port", settings.web.host, settings.web.port)} if settings.web.enabled else set()
    if receives:
        addresses.add(("node.port", settings.node.host, settings.node.port))
        if settings.tls is not None:
            addresses.add(("tls.port", settings.node.host, settings.tls.port))
        if settings.hl7.enabled:
            addresses.add(("hl7.port", settings.hl7.host, settings.hl7.port))
    return {(key, host, port) for key, host, port in addresses if port}


def _require_free(key: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
            tried.listen(1)
        except OSError as error:
            raise ConfigurationError(f"{key} {port} on {host}: {error.strerror}") from error
