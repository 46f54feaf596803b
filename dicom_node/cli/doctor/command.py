"""`echo` and `doctor`: what a new installation gets wrong, found before the first study is lost to it."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Final

import typer

from dicom_node.admin.formats import amount
from dicom_node.cli.common import ConfigOption, JsonOption, console, print_json, settings_from
from dicom_node.cli.console import Style
from dicom_node.cli.doctor import machine_checks
from dicom_node.cli.doctor.machine_checks import Check, Grade
from dicom_node.cli.doctor.storage_check import object_store
from dicom_node.config import Destination, QueryPeer, Settings, Verify
from dicom_node.deliver import peer, stow
from dicom_node.errors import NodeError, UsageError
from dicom_node.index import schema
from dicom_node.index.database import Database
from model.errors import InferenceError


def echo(
    destination: Annotated[str, typer.Argument(metavar="NAME", help="Name of a destination or query peer.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a C-ECHO to a destination and show which services it accepts."""
    settings = settings_from(config)
    target = _peer_named(settings, destination)
    try:
        text = _echo(target, settings)
    except NodeError as error:
        if as_json:
            print_json({"destination": destination, "answers": False, "error": str(error)})
            raise typer.Exit(1) from error
        raise
    if as_json:
        print_json({"destination": destination, "answers": True, "text": text})
    else:
        console.print(f"{destination}: {text}")


def _echo(target: Destination, settings: Settings) -> str:
    if target.url:
        stow.check(target, settings.delivery)
        return "the DICOMweb service answers"
    result = peer.echo(target, settings.delivery, calling_ae_title=settings.node.ae_title)
    return f"answers in {result.seconds:.2f} s; accepts {', '.join(result.services)}"


def _peer_named(settings: Settings, name: str) -> Destination:
    """A destination, or a query peer in the clothes of one. Raises UsageError naming all there are."""
    for destination in settings.destinations:
        if destination.name == name:
            return destination
    for query in settings.query:
        if query.name == name:
            return _as_destination(query)
    known = ", ".join([d.name for d in settings.destinations] + [q.name for q in settings.query]) or "none"
    raise UsageError(f"no destination or query peer {name!r}; configured: {known}")


def _as_destination(query: QueryPeer) -> Destination:
    return Destination(
        name=query.name,
        ae_title=query.ae_title,
        host=query.host,
        port=query.port,
        url=query.url,
        tls=query.tls,
        token_file=query.token_file,
        verify=Verify.NONE,
    )


_STYLES: Final[dict[Grade, Style]] = {Grade.GOOD: "green", Grade.WARNING: "yellow", Grade.BAD: "red"}


def doctor(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    without_model: Annotated[bool, typer.Option("--without-model", help="Do not load the model.")] = False,
) -> None:
    """Check for the usual mistakes of an installation. Exit 1 if a check fails."""
    settings = settings_from(config)
    checks: list[Check] = []
    for check in examinations(settings, without_model=without_model):
        checks.append(check)
        if not as_json:
            console.print(f"{check.grade:8}", style=_STYLES[check.grade], end=" ")
            console.print(f"{check.what:22} {check.text}")
    if as_json:
        print_json([{"what": c.what, "grade": c.grade, "text": c.text} for c in checks])
    else:
        good, warnings, bad = (sum(1 for check in checks if check.grade is grade) for grade in Grade)
        console.print(f"{amount(good, 'check')} good, {amount(warnings, 'warning')}, {bad} bad")
    if any(check.grade is Grade.BAD for check in checks):
        raise typer.Exit(1)


def examinations(settings: Settings, *, without_model: bool) -> Iterator[Check]:
    """All checks, one after the other; each tells its own failure and stops no other."""
    yield from _ae_titles(settings)
    yield _open_door(settings)
    yield from _run_check("data folder", lambda: machine_checks.write_rights(settings.node.data_dir))
    yield from _run_check("disk speed", lambda: machine_checks.disk_speed(settings.node.data_dir))
    yield from _run_check("disk space", lambda: machine_checks.free_disk(settings))
    yield from _run_check("index", lambda: _index(settings))
    if settings.storage.kind == "s3":
        yield from _run_check("object store", lambda: object_store(settings))
    yield from _ports(settings)
    yield from machine_checks.files(settings)
    if settings.tls is not None:
        tls = settings.tls
        yield from _run_check("TLS files", lambda: machine_checks.tls_files(tls))
    yield machine_checks.clock()
    if any("pdf" in destination.documents for destination in settings.destinations):
        yield machine_checks.fonts()
    if settings.priors.merged_ids is not None:
        yield from _run_check("merged IDs", lambda: machine_checks.merged_ids(settings))
    if settings.audit.host is not None:
        yield from _run_check("audit collector", lambda: machine_checks.collector(settings))
    if settings.notify.email_to:
        yield from _run_check("mail server", lambda: machine_checks.mail_server(settings))
    yield from _peers(settings)
    yield _pages(settings)
    if settings.oidc is not None:
        provider = settings.oidc
        yield from _run_check("log-in provider", lambda: machine_checks.log_in_provider(provider))
    if not without_model:
        yield from _run_check("model", lambda: _model(settings))
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        yield Check(what="user", grade=Grade.WARNING, text="runs as root; the node needs no rights of root")


def _run_check(what: str, check: Callable[[], Check]) -> Iterator[Check]:
    """A check's own failure is its finding."""
    try:
        yield check()
    except (NodeError, InferenceError, OSError, ValueError) as error:
        yield Check(what=what, grade=Grade.BAD, text=str(error))


def _ae_titles(settings: Settings) -> Iterator[Check]:
    ours = settings.node.ae_title
    same = [d.name for d in settings.destinations if d.ae_title == ours and not d.url]
    if same:
        text = f"{', '.join(same)}: has this node's own AE title {ours}; results would come back to it"
        yield Check(what="AE titles", grade=Grade.BAD, text=text)
    elif any(d.ae_title == "ANY-SCP" and not d.url for d in settings.destinations):
        text = "a destination has the AE title ANY-SCP: most archives check the called AE title"
        yield Check(what="AE titles", grade=Grade.WARNING, text=text)
    else:
        yield Check(what="AE titles", grade=Grade.GOOD, text=f"this node is {ours}")


def _open_door(settings: Settings) -> Check:
    """Tell whether anybody may store and query, which is right for a first routing and not for a hospital."""
    receive, access = settings.receive, settings.access
    if access.addresses or access.calling_ae_titles:
        return Check(what="who may call", grade=Grade.GOOD, text="[access] says who")
    open_to = [name for name, may in (("store", receive.unnamed_store), ("query", receive.unnamed_query)) if may]
    if not open_to:
        return Check(what="who may call", grade=Grade.GOOD, text="only peers with a [[receive.peers]] table")
    text = (
        f"any AE title from any address may {' and '.join(open_to)}: set access.addresses, or name the senders in"
        " [[receive.peers]] and set receive.unnamed_store, receive.unnamed_query to false"
    )
    return Check(what="who may call", grade=Grade.WARNING, text=text)


def _index(settings: Settings) -> Check:
    database = Database(settings.database.url)
    try:
        current = schema.current_revision(database)
        needed = schema.head_revision()
        if current is None and database.is_sqlite:
            return Check(what="index", grade=Grade.GOOD, text="new; `serve` makes its tables")
        if current != needed:
            text = f"schema {current or 'none'}, needed is {needed}: run `dicom-node db upgrade`"
            return Check(what="index", grade=Grade.BAD, text=text)
        with database.write() as session:
            session.connection()
        return Check(what="index", grade=Grade.GOOD, text=f"schema {needed}, can be written")
    finally:
        database.close()


def _ports(settings: Settings) -> Iterator[Check]:
    ports = [("DICOM port", settings.node.host, settings.node.port)]
    if settings.tls is not None:
        ports.append(("TLS port", settings.node.host, settings.tls.port))
    if settings.web.enabled:
        ports.append(("web port", settings.web.host, settings.web.port))
    for what, host, port in ports:
        yield _port(what, host, port)


def _port(what: str, host: str, port: int) -> Check:
    try:
        with socket.create_server((host, port)):
            return Check(what=what, grade=Grade.GOOD, text=f"{host}:{port} can be listened on")
    except PermissionError:
        text = f"{port} needs rights that this user has not; take one above 1023 or give CAP_NET_BIND_SERVICE"
        return Check(what=what, grade=Grade.BAD, text=text)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"{host}:{port} is taken; fine where the node runs already"
            return Check(what=what, grade=Grade.WARNING, text=text)
        return Check(what=what, grade=Grade.BAD, text=f"{host}:{port} cannot be listened on: {error.strerror}")


def _peers(settings: Settings) -> Iterator[Check]:
    if not settings.destinations:
        text = "none is configured: results stay on this node"
        yield Check(what="destinations", grade=Grade.WARNING, text=text)
    # A destination and a query peer may have one name and be two machines.
    targets = [(f"peer {destination.name}", destination) for destination in settings.destinations]
    targets += [(f"query peer {query_peer.name}", _as_destination(query_peer)) for query_peer in settings.query]
    for what, target in targets:
        try:
            text = _echo(target, settings)
        except NodeError as error:
            yield Check(what=what, grade=Grade.BAD, text=str(error))
            continue
        missing = target.verify == "commitment" and "storage commitment" not in text
        if missing:
            text += "; does not accept storage commitment, so C-FIND will be the proof"
        yield Check(what=what, grade=Grade.WARNING if missing else Grade.GOOD, text=text)


def _pages(settings: Settings) -> Check:
    web = settings.web
    if not web.enabled:
        return Check(what="pages", grade=Grade.GOOD, text="off")
    if not web.users and not web.trusted_header and settings.oidc is None:
        text = "nobody can log in: add [[web.users]] (`dicom-node web-password` makes the hash), or [oidc]"
        return Check(what="pages", grade=Grade.WARNING, text=text)
    if web.host not in ("127.0.0.1", "::1", "localhost") and not web.secure_cookie:
        text = f"listens on {web.host} without secure_cookie: put a TLS proxy before it and set secure_cookie = true"
        return Check(what="pages", grade=Grade.WARNING, text=text)
    return Check(what="pages", grade=Grade.GOOD, text=amount(len(web.users), "user"))


def _model(settings: Settings) -> Check:
    from dicom_node.serving.model_process import InferenceProcess
    from dicom_node.serving.promotion import candidates

    started = time.perf_counter()
    source = candidates(settings, settings.node.data_dir / "models")[0].source
    process = InferenceProcess(settings.model, source=lambda: source)
    try:
        identity = process.identity
    finally:
        process.close()
    seconds = time.perf_counter() - started
    text = f"{identity.name} {identity.version} loads in {seconds:.1f} s"
    if identity.demonstration:
        return Check(what="model", grade=Grade.WARNING, text=f"{text}; demonstration, not for clinical use")
    return Check(what="model", grade=Grade.GOOD, text=text)


def web_password() -> None:
    """Ask for a password and print its hash for a web.users table."""
    from dicom_node.admin.passwords import hash_password

    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    if len(password) < 10:
        raise UsageError("a password has at least 10 characters")
    typer.echo(hash_password(password))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(echo)
    app.command()(doctor)
    app.command("web-password")(web_password)
