"""The champion's pointer of machines that share a bucket: one object owns it, each machine's file follows.

A machine takes the bucket's pointer before it changes it, and puts its own in exchange for exactly that one (ETag), so
of two promotions at the same moment one is refused. Checkpoints are not in the bucket: a machine that lacks the
champion's folder keeps the champion that it has and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from dicom_node.context import NodeContext
from dicom_node.errors import StorageError
from dicom_node.logs import get_logger
from dicom_node.notifications import raise_notice
from dicom_node.storage.bucket import Bucket
from dicom_node.storage.opening import bucket_of
from model.checkpoints.files import MANIFEST_NAME, PLAIN_NAME, write_text_atomically
from model.checkpoints.registry import CHAMPION_NAME, ChampionPointer

log = get_logger(__name__)

POINTER_KEY: Final = f"models/{CHAMPION_NAME}"


@contextmanager
def changing_pointer(node: NodeContext) -> Iterator[None]:
    """Around a change of this machine's pointer: take the group's first, give the changed one to the group.

    Raises StorageError where the bucket does not answer, or another machine changed the pointer meanwhile; then this
    machine's pointer is the group's again.
    """
    if node.settings.storage.kind != "s3":
        yield
        return
    bucket = bucket_of(node.settings.storage)
    before = _take(node, bucket)
    pointer = bucket.read(POINTER_KEY)
    if pointer is not None and pointer[0] != _local_pointer(node):
        raise StorageError(
            "this machine does not follow the group's champion: copy its folder into data_dir/models first"
        )
    yield
    content = (node.models_dir / CHAMPION_NAME).read_bytes()
    # A conditional write (If-Match on the ETag): of two machines that promote at once, one is told so.
    if not bucket.swap(POINTER_KEY, content, e_tag=before):
        _take(node, bucket)
        raise StorageError(
            "another machine changed the champion at the same moment: look at `models list`, and try again"
        )


def follow_group(node: NodeContext) -> None:
    """Tick of every machine: take the group's pointer where it is another one."""
    if node.settings.storage.kind == "s3":
        _take(node, bucket_of(node.settings.storage))


def _take(node: NodeContext, bucket: Bucket) -> str | None:
    """Make this machine's pointer that of the bucket; return its ETag, None where the bucket has none yet."""
    pointer = bucket.read(POINTER_KEY)
    if pointer is None:
        return None
    content, e_tag = pointer
    if _local_pointer(node) == content:
        return e_tag
    missing = _missing_folder(node.models_dir, content)
    if missing:
        text = f"the champion {missing} is not in {node.models_dir} of this machine: copy its folder there"
        log.error("the group's champion is not followed", why=text)
        with node.database.write() as session:
            raise_notice(session, key=f"champion missing:{missing}", kind="model", text=text, now=node.clock())
        return e_tag
    node.models_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomically(node.models_dir / CHAMPION_NAME, content.decode())
    log.info("the group's champion is followed")
    return e_tag


def _local_pointer(node: NodeContext) -> bytes:
    path = node.models_dir / CHAMPION_NAME
    return path.read_bytes() if path.is_file() else b""


def _missing_folder(models_dir: Path, content: bytes) -> str:
    """The champion's name where its checkpoint is not here, else "". Raises StorageError where it is no pointer."""
    try:
        pointer = ChampionPointer.model_validate_json(content)
    except ValidationError as error:
        raise StorageError(f"{POINTER_KEY} in the bucket is no champion pointer: {error}") from error
    # A name from the bucket becomes a path below the models folder: "../x" must never pass.
    names = [entry.folder for entry in (*pointer.history, *pointer.withdrawn)]
    if not all(PLAIN_NAME.fullmatch(name) for name in names):
        raise StorageError(f"{POINTER_KEY} in the bucket names something else than a folder")
    champion = pointer.history[-1].folder if pointer.history else ""
    return champion if champion and not (models_dir / champion / MANIFEST_NAME).is_file() else ""
