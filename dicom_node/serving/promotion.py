"""The checkpoint in service: the champion of the models folder, else the model of the configuration.

The pointer file of `model.checkpoints.registry` owns that state: it is replaced in one rename, so whoever reads it,
on whichever machine, sees the old champion or the new one. Journal, audit and notice are rows that follow the
pointer: written at once by whoever changed it, and by a tick where that process died in between (docs/adr/0013).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.config import DEMO, ModelSection, Settings
from dicom_node.context import NodeContext
from dicom_node.errors import ConfigurationError, NodeError, UsageError
from dicom_node.index.tables.models import ModelEvent, ModelEventKind
from dicom_node.index.upsert import insert_if_absent
from dicom_node.logs import get_logger
from dicom_node.notifications import raise_notice
from dicom_node.serving.shared_pointer import changing_pointer
from model.checkpoints import registry
from model.checkpoints.registry import ChampionPointer, Manifest, Promotion
from model.errors import CheckpointError, UnknownCheckpointError

log = get_logger(__name__)


class ModelsError(NodeError):
    """A promotion or rollback cannot be done; the message says why. The model that served continues to serve."""


class UnknownModelError(ModelsError, UsageError):
    """A command names a checkpoint that the models folder does not hold. The message names those that it holds."""


def refusal(error: CheckpointError | OSError) -> ModelsError:
    """The node's error for a checkpoint that `model` refuses."""
    return UnknownModelError(str(error)) if isinstance(error, UnknownCheckpointError) else ModelsError(str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that may answer. folder: below the models folder, "" for the configured one. source: what is loaded."""

    folder: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChampionChange:
    """One entry of the pointer in the journal's words."""

    kind: ModelEventKind
    promotion: Promotion

    @property
    def key(self) -> str:
        return f"{self.kind.value}:{self.promotion.folder}:{self.promotion.at.isoformat()}"


def require_model(settings: Settings) -> None:
    """Refuse a model that no study could ever be answered with, before the first study finds out.

    Raises ConfigurationError, and ModelsError as `candidates` does.
    """
    if not candidates(settings, settings.node.data_dir / "models")[0].folder:
        require_source(settings.model)


def require_source(model: ModelSection) -> None:
    """Refuse a model that is neither a folder here nor a Hub id with its commit. Raises ConfigurationError."""
    is_local = model.source == DEMO or Path(model.source).is_dir()
    if model.backend == "transformers" and not is_local and model.revision is None:
        raise ConfigurationError(
            f"model.source: there is no folder {model.source!r}; a Hub id needs model.revision, the 40 hexadecimal"
            " digits of a commit"
        )


def candidates(settings: Settings, models_dir: Path) -> tuple[Candidate, ...]:
    """Who may answer, first choice first: the champion, the champions before it, the configured model. Never empty.

    One that was withdrawn since it was promoted is not among the latter. The pointer is opened anew each time: on a
    network file system an open file is checked with the server, a cached `stat` is not. Raises ModelsError for a
    pointer that cannot be read.
    """
    configured = Candidate(folder="", source=settings.model.source)
    if settings.model.backend != "transformers":
        return (configured,)
    pointer = _pointer(models_dir)
    # The last withdrawal of a folder counts.
    withdrawn_at = {withdrawal.folder: withdrawal.at for withdrawal in pointer.withdrawn}
    promoted = (
        entry.folder
        for entry in reversed(pointer.history)
        if entry is pointer.history[-1] or entry.folder not in withdrawn_at or withdrawn_at[entry.folder] < entry.at
    )
    return (*(Candidate(folder=name, source=str(models_dir / name)) for name in dict.fromkeys(promoted)), configured)


def promote(node: NodeContext, name: str, *, who: str, reason: str = "") -> Manifest:
    """Make a checkpoint of the models folder the champion; running workers change to it without a restart.

    Raises UnknownModelError for a name that is not there, ModelsError for a checkpoint that does not pass verification,
    UsageError where the node's model runs on a server.
    """
    _refuse_remote(node.settings)
    try:
        with changing_pointer(node):
            manifest = registry.promote(node.models_dir, name, at=node.clock(), who=who, reason=reason)
    except (CheckpointError, OSError) as error:
        raise refusal(error) from error
    _journal_now(node)
    return manifest


def rollback(node: NodeContext, *, who: str, reason: str = "") -> Manifest | None:
    """Back to the champion before this one; None where that is the configured model.

    Raises ModelsError where nothing was promoted, or the earlier champion does not pass verification.
    """
    _refuse_remote(node.settings)
    try:
        with changing_pointer(node):
            manifest = registry.rollback(node.models_dir, at=node.clock(), who=who, reason=reason)
    except (CheckpointError, OSError) as error:
        raise refusal(error) from error
    _journal_now(node)
    return manifest


def champion(models_dir: Path) -> str:
    """The champion's folder name, "" where the configured model serves. Raises ModelsError for a broken pointer."""
    pointer = _pointer(models_dir)
    return pointer.history[-1].folder if pointer.history else ""


def catch_up(node: NodeContext) -> None:
    """Tick: write down what the pointer says and the journal does not, with audit message and notice, each once."""
    changes = list(changes_of(_pointer(node.models_dir)))
    if not changes:
        return
    with node.database.read() as session:
        known = set(session.query(ModelEvent.key).where(ModelEvent.key.in_([c.key for c in changes])).all())
    missing = [change for change in changes if (change.key,) not in known]
    for change in missing:
        with node.database.write() as session:
            note(session, node, change.kind, change.promotion)


def changes_of(pointer: ChampionPointer) -> Iterator[ChampionChange]:
    """Every promotion and rollback that the pointer remembers, oldest first."""
    changes = [ChampionChange(kind=ModelEventKind.PROMOTED, promotion=entry) for entry in pointer.history]
    for withdrawal in pointer.withdrawn:
        if withdrawal.promoted is not None:
            changes.append(ChampionChange(kind=ModelEventKind.PROMOTED, promotion=withdrawal.promoted))
        changes.append(ChampionChange(kind=ModelEventKind.ROLLED_BACK, promotion=withdrawal))
    yield from sorted(changes, key=lambda change: change.promotion.at)


def note(session: Session, node: NodeContext, kind: ModelEventKind, entry: Promotion) -> bool:
    """Journal, audit (PS3.15 A.5.3.11 with type Software Configuration) and notice of one change, once; is it new?"""
    change = ChampionChange(kind=kind, promotion=entry)
    manifest = _manifest(node.models_dir / entry.folder) if entry.folder else None
    values = {
        "key": change.key[:255],
        "kind": kind,
        "folder": entry.folder,
        "model_name": manifest.name if manifest else "",
        "model_version": manifest.version if manifest else "",
        "device_uid": manifest.device_uid if manifest else "",
        "at": entry.at,
        "who": entry.who[:255],
        "reason": entry.reason,
    }
    # The key names the change: every worker sees it, the first one that gets here tells of it.
    if insert_if_absent(session, ModelEvent, values, unique=["key"]) is None:
        return False
    text = _sentence(change, manifest)
    audit.record(
        session,
        audit.AuditedEvent.SECURITY_ALERT,
        event_type=audit.EventType.SOFTWARE_CONFIGURATION,
        now=entry.at,
        participants=(
            audit.Participant(user_id=entry.who or "(unknown)", requestor=True),
            audit.this_node(node.settings.node.ae_title),
        ),
        alert=text,
        site=node.settings.audit.site,
    )
    raise_notice(session, key=f"model:{change.key}", kind="model change", text=text, now=node.clock())
    return True


def _sentence(change: ChampionChange, manifest: Manifest | None) -> str:
    entry = change.promotion
    device = f", device UID {manifest.device_uid}" if manifest else ""
    reason = f": {entry.reason}" if entry.reason else ""
    return f"model {entry.folder or '(none)'} {change.kind.value} by {entry.who or 'nobody named'}{device}{reason}"


def _journal_now(node: NodeContext) -> None:
    """The change is made; where the index is away just now, the tick writes it down later."""
    try:
        catch_up(node)
    except NodeError as error:
        log.error("model change not yet in the journal; the next tick writes it", error=str(error))


def _refuse_remote(settings: Settings) -> None:
    if settings.model.backend != "transformers":
        raise UsageError(
            'model.backend is "openai": which checkpoint answers is decided at the server; promotion and rollback need'
            ' backend = "transformers"'
        )


def _pointer(models_dir: Path) -> ChampionPointer:
    try:
        return registry.read_pointer(models_dir)
    except CheckpointError as error:
        raise refusal(error) from error


def _manifest(folder: Path) -> Manifest | None:
    """The manifest where it can be read: a journal entry must not fail for a folder that was removed since."""
    try:
        return registry.read_manifest(folder, verify=False)
    except CheckpointError:
        return None
