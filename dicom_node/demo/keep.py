"""The demonstration that stays: node, pages, small PACS and, where it is at hand, a viewer, until Ctrl-C."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from argon2 import PasswordHasher

from dicom_node.demo.viewer import ViewerMissingError, running_dicomweb, running_viewer, upload

DEFAULT_VIEWER = Path(".cache/ohif/package/dist")
USER = "demo"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The one user of the kept demonstration; the password is drawn for each run."""

    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))

    def table(self) -> list[str]:
        """The lines of the configuration."""
        return [
            "[[web.users]]",
            f'name = "{USER}"',
            f'password_hash = "{PasswordHasher().hash(self.password)}"',
            'role = "administrator"',
        ]


def wait_for_end() -> None:
    """Block until SIGINT or SIGTERM; the handlers that were there before come back."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_running(
    *,
    web_port: int,
    login: Login,
    held: Mapping[str, Path],
    sent: list[Path],
    folder: Path,
    viewer: Path | None,
    say: Say,
) -> None:
    """Say where everything is and block until Ctrl-C. `held`: what the PACS received; `sent`: the images."""
    say(f"pages:  http://127.0.0.1:{web_port}   user {USER}, password {login.password}")
    with ExitStack() as stack:
        try:
            address = stack.enter_context(_viewer(viewer, [*sent, *held.values()], folder))
        except ViewerMissingError as missing:
            say(f"viewer: none ({missing})")
        else:
            say(f"viewer: {address}")
        say("Ctrl-C ends the demonstration.")
        wait_for_end()


@contextmanager
def _viewer(pages: Path | None, files: list[Path], folder: Path) -> Iterator[str]:
    chosen = pages or DEFAULT_VIEWER
    if not (chosen / "index.html").is_file():
        raise ViewerMissingError("npm pack @ohif/app@3.13.2, unpack it, and give its package/dist by --viewer")
    with running_dicomweb(folder / "viewer") as port, running_viewer(chosen, port) as address:
        for path in files:
            upload(port, path.read_bytes())
        yield address
