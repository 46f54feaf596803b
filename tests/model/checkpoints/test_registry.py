"""Manifests refuse what they must, and the champion pointer goes forward and back."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoints.registry import (
    CHAMPION_NAME,
    MANIFEST_NAME,
    champion_folder,
    list_models,
    promote,
    read_manifest,
    rewrite_manifest,
    rollback,
    show_model,
    write_manifest,
)
from model.engine.vlm import open_vlm
from model.errors import CheckpointError
from model.nvila import save_nvila
from tests.support.tiny_auto import gemma3
from tests.support.tiny_nvila import save_tiny, tiny_nvila

NOW = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)


def checkpoint(folder: Path, *, seed: int = 0, version: str = "1") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    generator = torch.Generator().manual_seed(seed)
    save_file({"weight": torch.rand(4, generator=generator)}, folder / "model.safetensors")
    write_manifest(
        folder,
        name="trial",
        version=version,
        kind="nvila",
        findings=("pneumothorax", "edema"),
        calibration={"presence": 1.25},
        thresholds={"edema": 0.4},
        certainty_floor=0.3,
    )
    return folder


def test_manifest_round_trip_names_every_file(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    manifest = read_manifest(folder)
    assert set(manifest.files) == {"config.json", "model.safetensors"}
    assert manifest.findings == ("pneumothorax", "edema")
    assert manifest.thresholds == {"edema": 0.4}
    assert manifest.size == sum(path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST_NAME)
    assert manifest.device_uid.startswith("2.25.")
    assert len(manifest.device_uid) <= 64


def test_device_uid_follows_the_content(tmp_path: Path) -> None:
    first = read_manifest(checkpoint(tmp_path / "a", seed=1)).device_uid
    assert read_manifest(checkpoint(tmp_path / "b", seed=1)).device_uid == first
    assert read_manifest(checkpoint(tmp_path / "c", seed=2)).device_uid != first
    assert rewrite_manifest(tmp_path / "a", certainty_floor=0.5).device_uid != first
    assert read_manifest(tmp_path / "a").certainty_floor == 0.5


def test_half_written_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_manifest(folder)
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(CheckpointError, match="half-written"):
        read_manifest(folder)


@pytest.mark.parametrize("layout", ["ours", "original", "foreign"])
def test_weights_that_are_overwritten_under_a_serving_model_change_nothing(tmp_path: Path, layout: str) -> None:
    """A mapped file would: the model would answer with other bytes than those that were verified."""
    folder = tmp_path / "m"
    if layout == "ours":
        save_tiny(folder)
    elif layout == "original":
        save_nvila(folder, *tiny_nvila())
    else:
        gemma3(folder)
    vlm = open_vlm(folder)
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    for file in folder.rglob("*.safetensors"):
        with file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
    assert all(torch.equal(value, before[name]) for name, value in vlm.model.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_a_manifest_is_refused_by_name(tmp_path: Path, share: float) -> None:
    """The folder that a full disk or an interrupted copy leaves behind."""
    path = checkpoint(tmp_path / "trial-1") / MANIFEST_NAME
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"trial-1/manifest\.json: not a manifest"):
        read_manifest(path.parent)


def test_a_manifest_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    (folder / MANIFEST_NAME).rename(folder / f"{MANIFEST_NAME}.tmp")
    with pytest.raises(CheckpointError, match="half-written"):
        read_manifest(folder)


def test_a_link_out_of_the_hubs_cache_is_refused(tmp_path: Path) -> None:
    """The cache links each file to its blob, and only such links are followed."""
    written = checkpoint(tmp_path / "written")
    snapshot, blobs = (
        tmp_path / "models--site--trial" / "snapshots" / "0123",
        tmp_path / "models--site--trial" / "blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in written.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert read_manifest(snapshot).name == "trial"
    (tmp_path / "elsewhere").write_text("{}")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"config\.json is a link"):
        read_manifest(snapshot)


def test_tampered_weights_are_refused_by_name(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"model\.safetensors was changed"):
        read_manifest(folder)


def test_changed_reading_rules_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text().replace('"certainty_floor": 0.3', '"certainty_floor": 0.0'))
    with pytest.raises(CheckpointError, match="changed by hand"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_x.py", "sub/optimizer.pt"])
def test_pickles_and_code_are_refused(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=name.rsplit("/", 1)[-1].replace(".", r"\.")):
        read_manifest(folder)
    with pytest.raises(CheckpointError):
        write_manifest(folder, name="trial", version="2", kind="nvila", findings=("edema",))


def test_unlisted_file_and_link_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    (folder / "extra.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"extra\.safetensors is not named"):
        read_manifest(folder)
    (folder / "extra.safetensors").unlink()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="is a link"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"findings": ("no_such_finding",)},
        {"name": "../escape"},
        {"calibration": {"presence": 0.0}},
        {"thresholds": {"edema": 1.5}},
        {"unknown_key": 1},
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, values: dict[str, object]) -> None:
    folder = checkpoint(tmp_path / "trial-1")
    usual: dict[str, object] = {"name": "trial", "version": "1", "kind": "nvila", "findings": ("edema",)}
    with pytest.raises(CheckpointError):
        write_manifest(folder, **(usual | values))


def test_promote_and_rollback(tmp_path: Path) -> None:
    for version in ("1", "2"):
        checkpoint(tmp_path / f"trial-{version}", seed=int(version), version=version)
    assert champion_folder(tmp_path) is None
    promote(tmp_path, "trial-1", at=NOW, reason="first")
    promote(tmp_path, "trial-2", at=NOW)
    promote(tmp_path, "trial-2", at=NOW)  # again: no second entry
    assert champion_folder(tmp_path) == tmp_path / "trial-2"
    assert [entry.champion for entry in list_models(tmp_path)] == [False, True]
    back = rollback(tmp_path, at=NOW, reason="worse at night")
    assert back is not None
    assert back.version == "1"
    assert champion_folder(tmp_path) == tmp_path / "trial-1"
    assert rollback(tmp_path, at=NOW) is None
    with pytest.raises(CheckpointError, match="nothing to roll back"):
        rollback(tmp_path, at=NOW)
    withdrawn = json.loads((tmp_path / CHAMPION_NAME).read_text())["withdrawn"]
    assert [entry["folder"] for entry in withdrawn] == ["trial-2", "trial-1"]


def test_a_broken_checkpoint_is_never_promoted(tmp_path: Path) -> None:
    checkpoint(tmp_path / "trial-1")
    promote(tmp_path, "trial-1", at=NOW)
    broken = checkpoint(tmp_path / "trial-2", seed=2, version="2")
    (broken / "config.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        promote(tmp_path, "trial-2", at=NOW)
    assert champion_folder(tmp_path) == tmp_path / "trial-1"
    assert "config.json" in show_model(tmp_path, "trial-2").problem
    with pytest.raises(CheckpointError, match="no checkpoint 'trial-9'"):
        promote(tmp_path, "trial-9", at=NOW)
    with pytest.raises(CheckpointError, match="plain"):
        promote(tmp_path, "../trial-1", at=NOW)


def test_a_pointer_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHAMPION_NAME).write_text(
        json.dumps({"history": [{"folder": "../elsewhere", "at": NOW.isoformat(), "reason": ""}]})
    )
    with pytest.raises(CheckpointError, match="not a plain folder name"):
        champion_folder(tmp_path)
