"""Machines that share a bucket have one champion: promotion, rollback, two at one moment, a folder that is missing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config import NodeSection, Settings
from dicom_node.context import NodeContext
from dicom_node.errors import StorageError
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Notice
from dicom_node.serving import promotion as models
from dicom_node.serving import shared_pointer
from dicom_node.storage.bucket import Bucket
from dicom_node.storage.opening import bucket_of, open_store
from tests.support.checkpoints import paper_checkpoint
from tests.support.object_store import S3Server


@pytest.fixture
def machines(s3_server: S3Server, tmp_path: Path) -> Iterator[tuple[NodeContext, NodeContext]]:
    """Two machines with a models folder each, over one index and one bucket; the second one lacks "third"."""
    section = s3_server.new_bucket(tmp_path)
    nodes = []
    for name in ("one", "other"):
        database = Database(f"sqlite:///{tmp_path}/index.db")
        schema.upgrade(database)
        settings = Settings(node=NodeSection(data_dir=tmp_path / name), storage=section)
        nodes.append(NodeContext(settings=settings, database=database, store=open_store(settings)))
        for number, folder in enumerate(("first", "second", "third")):
            if (name, folder) != ("other", "third"):
                paper_checkpoint(nodes[-1].models_dir / folder, seed=number)
    yield nodes[0], nodes[1]
    for node in nodes:
        node.database.close()


def test_the_other_machine_follows_a_promotion_and_a_rollback(machines: tuple[NodeContext, NodeContext]) -> None:
    one, other = machines
    models.promote(one, "first", who="ada")
    shared_pointer.follow_group(other)
    assert models.champion(other.models_dir) == "first"
    models.promote(other, "second", who="eve")
    models.rollback(one, who="ada")
    shared_pointer.follow_group(other)
    assert models.champion(one.models_dir) == models.champion(other.models_dir) == "first"


def test_of_two_promotions_at_one_moment_one_is_refused(
    machines: tuple[NodeContext, NodeContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines
    models.promote(one, "first", who="ada")
    both = threading.Barrier(2)
    swap = Bucket.swap

    def together(bucket: Bucket, key: str, content: bytes, *, e_tag: str | None) -> bool:
        both.wait(30)
        return swap(bucket, key, content, e_tag=e_tag)

    monkeypatch.setattr(Bucket, "swap", together)
    refused: list[str] = []

    def promote(node: NodeContext, name: str) -> None:
        try:
            models.promote(node, name, who="ada")
        except StorageError as error:
            refused.append(str(error))

    shared_pointer.follow_group(other)
    paper_checkpoint(other.models_dir / "third", seed=2)
    threads = [threading.Thread(target=promote, args=pair) for pair in ((one, "second"), (other, "third"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 1
    assert "at the same moment" in refused[0]
    for node in machines:
        shared_pointer.follow_group(node)
    assert models.champion(one.models_dir) == models.champion(other.models_dir) in ("second", "third")


def test_a_machine_without_the_champions_folder_keeps_its_own_and_says_so(
    machines: tuple[NodeContext, NodeContext],
) -> None:
    one, other = machines
    models.promote(one, "first", who="ada")
    shared_pointer.follow_group(other)
    models.promote(one, "third", who="ada")
    shared_pointer.follow_group(other)
    assert models.champion(other.models_dir) == "first"
    with other.database.read() as session:
        texts = list(session.scalars(select(Notice.text).where(Notice.kind == "model")))
    assert len(texts) == 1
    assert "third is not in" in texts[0]
    with pytest.raises(StorageError, match="does not follow"):
        models.promote(other, "second", who="eve")
    assert Bucket.read(bucket_of(one.settings.storage), shared_pointer.POINTER_KEY) is not None
    shared_pointer.follow_group(one)
    assert models.champion(one.models_dir) == "third"
