"""The manifest of a checkpoint: what is in the folder, where it came from and how its answers are to be read.

DO write it last, in one rename: a folder without one is a training that was cut off. DON'T load weights that it does
not name with their SHA-256: a report must be able to say exactly which bytes answered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.checkpoints.files import (
    MANIFEST_NAME,
    PLAIN_NAME,
    FileEntry,
    files_of,
    hash_files,
    refuse_unsafe,
    sha256_of,
    write_text_atomically,
)
from model.checkpoints.prognosis_evidence import PrognosisEvidence
from model.checkpoints.validation_counts import ValidationSet
from model.derived_uids import uid_of_digest
from model.errors import CheckpointError
from model.film_rules import FilmReading
from model.finding_states import JointWeights
from model.ontology import ontology
from model.schema import MAX_IMAGES

FORMAT_VERSION = 1
_READING = frozenset({"findings", "question_types", "thresholds", "calibration", "joint", "certainty_floor", "films"})
"""The fields that decide how the same scores are read."""


class CheckpointKind(StrEnum):
    """The kind of checkpoint: the opener in `model.engine.vlm` for the folder."""

    NVILA = "nvila"
    """`model.nvila.load_nvila`."""
    AUTO = "auto"
    """Transformers' AutoModelForImageTextToText and AutoProcessor."""


class Manifest(BaseModel):
    """Everything that serving must know of a checkpoint beside its weights.

    name, version: together the checkpoint's name in lists and reports. base: what it was fine-tuned from. recipe,
    data_snapshot: which recipe and which frozen data set (name or hash). metrics: what evaluation measured.
    findings: ontology keys that it was trained on and may be asked. question_types: values of
    `model.questions.battery.QuestionType` that it was trained on; others are never asked. prognosis: the next image is
    predicted; prognosis_findings: setting (`model.prognosis.inputs.SETTINGS`) → findings that are, where the checkpoint
    has a prognosis head; prognosis_evidence: what that was measured on, and the figures.
    images: most of one study that it is shown at once. times: the days between them are said.
    thresholds: finding → least calibrated probability of presence that is called present (0.5 where absent).
    calibration: question type → temperature (1.0 where absent). joint: how presence, prior and change answers are put
    together, `model.finding_states.JointWeights` (its defaults where empty).
    certainty_floor: least certainty (probability of the stated answer) below which the answer is "abstained" or
    "not comparable". tiling: the `Tiling` of training. expert, context: the prompts of training held such lines;
    others are not shown any. calibrated_on: how many validation answers the calibration saw.
    localisation: finding → share of validation findings whose most relevant point lay inside their true outline, by
    `model.localise.relevance`; only findings that stand here get a region.
    validation: what it said of the validation set that it was calibrated on; None in manifests that know none.
    films: how its film classifier reads films of people, and on what that was measured. device_uid: derived from all
    the rest but `validation`, which changes no answer; other weights or rules are another device (IHE AIR 1.2).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    name: str
    version: str
    kind: CheckpointKind
    files: Mapping[str, FileEntry]
    findings: tuple[str, ...]
    question_types: tuple[str, ...] = ("presence", "prior_presence", "change", "side", "grade", "difference")
    prognosis: bool = False
    prognosis_findings: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    prognosis_evidence: PrognosisEvidence | None = None
    base: str = ""
    recipe: Mapping[str, Any] | str = ""
    data_snapshot: str = ""
    metrics: Mapping[str, Any] = Field(default_factory=dict)
    thresholds: Mapping[str, float] = Field(default_factory=dict)
    calibration: Mapping[str, float] = Field(default_factory=dict)
    joint: Mapping[str, float] = Field(default_factory=dict)
    calibrated_on: int = 0
    certainty_floor: float = Field(default=0.0, ge=0.0, le=1.0)
    localisation: Mapping[str, float] = Field(default_factory=dict)
    tiling: Literal["original", "always", "never"] = "never"
    expert: bool = False
    context: bool = False
    images: int = Field(default=2, ge=2, le=MAX_IMAGES)
    times: bool = False
    licence: str = ""
    demonstration: bool = False
    parameters: int = 0
    validation: ValidationSet | None = None
    films: FilmReading | None = None
    device_uid: str

    @field_validator("name", "version")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not PLAIN_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not a plain name of letters, digits, dots, dashes and underscores")
        return value

    @field_validator("findings")
    @classmethod
    def _require_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [key for key in value if key not in ontology().findings]
        if unknown:
            raise ValueError(f"findings {unknown} are not in the ontology")
        if len(set(value)) != len(value):
            raise ValueError("a finding stands twice")
        return value

    @field_validator("calibration")
    @classmethod
    def _temperatures(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        if any(not 0.0 < temperature < float("inf") for temperature in value.values()):
            raise ValueError("a temperature must be positive")
        return value

    @field_validator("joint")
    @classmethod
    def _weights(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        JointWeights.from_values(value)  # raises ValueError naming what does not belong
        return value

    @field_validator("thresholds", "localisation")
    @classmethod
    def _probabilities(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        if any(not 0.0 <= threshold <= 1.0 for threshold in value.values()):
            raise ValueError("thresholds and shares lie between 0 and 1")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.validation is not None and set(self.validation.present) != set(self.findings):
            raise ValueError(f"validation counts {sorted(self.validation.present)}, not the findings that are asked")
        if self.prognosis_evidence is not None:
            stated = {setting for setting, keys in self.prognosis_findings.items() if keys}
            if unmeasured := sorted(stated - set(self.prognosis_evidence.settings)):
                raise ValueError(f"a prognosis is stated in {unmeasured}, for which there are no figures")
        return self

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    @property
    def label(self) -> str:
        """Name and version as one word, also the usual folder name."""
        return f"{self.name}-{self.version}"


def write_manifest(folder: str | Path, **values: Any) -> Manifest:
    """Hash every file of a finished checkpoint and write its manifest, last and in one step.

    values: the fields of `Manifest` but files and device_uid. Raises CheckpointError where the folder holds pickled
    weights or code, or where a value does not fit.
    """
    folder = Path(folder)
    files = hash_files(folder)
    if not any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(f"{folder}: holds no safetensors weights")
    manifest = _build({**values, "files": files})
    write_text_atomically(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def rewrite_manifest(folder: str | Path, **changes: Any) -> Manifest:
    """Change reading rules (thresholds, calibration, metrics, …) of a verified checkpoint; gives a new Device UID.

    What it said of its validation set goes where it would now be read otherwise, unless the changes bring it anew.
    """
    old = read_manifest(folder)
    forbidden = {"files", "device_uid", "format_version"} & set(changes)
    if forbidden:
        raise CheckpointError(f"{sorted(forbidden)} of a manifest cannot be set by hand")
    values = {name: getattr(old, name) for name in Manifest.model_fields if name != "device_uid"}
    # Counts of a validation set that was read by other rules are not those of this checkpoint any more.
    if _READING & set(changes):
        values["validation"] = None
    manifest = _build({**values, **changes})
    write_text_atomically(Path(folder) / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def read_manifest(folder: str | Path, *, verify: bool = True) -> Manifest:
    """The manifest of a checkpoint folder; with `verify`, every file is hashed and compared.

    Raises CheckpointError naming the folder and file: no manifest (training did not finish), a file missing, changed,
    not named, pickled or code.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such checkpoint folder")
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {MANIFEST_NAME}; the checkpoint is half-written or was not made by this program"
        )
    try:
        stored = json.loads(path.read_bytes())
        manifest = Manifest.model_validate(stored)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a manifest of format {FORMAT_VERSION}: {error}") from error
    # From the values as stored, not as we would write them: a field that we add later must not disown old manifests.
    if manifest.device_uid != _device_uid(stored):
        raise CheckpointError(f"{path}: was changed by hand (the Device UID does not fit the content)")
    if verify:
        _verify(folder, manifest)
    return manifest


def _build(values: Mapping[str, Any]) -> Manifest:
    try:
        draft = Manifest.model_validate({**values, "device_uid": ""})
        # From the JSON that will be read back, so that tuples, enums and floats hash the same both times.
        content = json.loads(draft.model_dump_json())
        return Manifest.model_validate({**content, "device_uid": _device_uid(content)})
    except ValidationError as error:
        raise CheckpointError(f"the manifest's values do not fit: {error}") from error


def _device_uid(content: Mapping[str, Any]) -> str:
    """A UID under 2.25 (PS3.5 section B.2) that depends on the content and on nothing else."""
    content = {key: value for key, value in content.items() if key not in ("device_uid", "validation")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return uid_of_digest(digest)


def _verify(folder: Path, manifest: Manifest) -> None:
    present = dict(files_of(folder))
    for name in present:
        refuse_unsafe(folder, name)
    if missing := sorted(set(manifest.files) - set(present)):
        raise CheckpointError(f"{folder}: {missing[0]} is missing; the checkpoint is half-written")
    # A surplus file could be loaded all the same: weights are searched by pattern.
    if foreign := sorted(set(present) - set(manifest.files)):
        raise CheckpointError(f"{folder}: {foreign[0]} is not named in the manifest")
    for name, entry in manifest.files.items():
        size = present[name].stat().st_size
        # The size first: it tells most damage without reading gigabytes.
        if size != entry.size:
            raise CheckpointError(f"{folder}: {name} was changed ({size} bytes, the manifest says {entry.size})")
        if sha256_of(present[name]) != entry.sha256:
            raise CheckpointError(f"{folder}: {name} was changed (its SHA-256 is not that of the manifest)")
