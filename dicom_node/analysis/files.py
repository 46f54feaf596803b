"""`dicom-node analyze`: the story of a study told on files, with the node's own rules, model and documents."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from dicom_node.analysis.outputs import write_outputs
from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.analysis.stored_images import StoredImage, read_stored
from dicom_node.analysis.study import analyse_study
from dicom_node.config import Settings
from dicom_node.errors import AnalysisError, UsageError
from dicom_node.priors import policy_of
from dicom_node.serving.predictor import load
from dicom_node.system.collection import resume_collection
from model.errors import ModelError, PixelError
from model.images.sandbox import decode_in_child


def analyze_files(current: Path, prior: Path | None, out: Path, *, settings: Settings) -> str:
    """Analyse the study in `current` against that in `prior`, write everything into `out`, return the report's text.

    A study with several frontal images gives a folder `image-2`, … for each further one. Raises UsageError where a path
    holds no DICOM object or `current` more than one study, AnalysisError where the model cannot be loaded.
    """
    images = _read(current)
    studies = {image.facts.study_instance_uid for image in images}
    if len(studies) > 1:
        raise UsageError(f"{current}: holds {len(studies)} studies; name the folder or file of one")
    earlier = _read(prior) if prior is not None else []
    try:
        setting = AnalysisInputs(
            predictor=load(settings.model),
            decode=decode_in_child,
            policy=policy_of(settings),
            produced_at=dt.datetime.now(dt.UTC),
            language=settings.node.language,
            reads_unfamiliar=settings.model.unfamiliar == "warn",
        )
        resume_collection()
        requests = analyse_study(images, earlier, setting)
    except (ModelError, OSError) as error:
        raise AnalysisError(f"the analysis failed: {error}") from error
    texts = []
    for number, request in enumerate(requests, start=1):
        texts.append(write_outputs(out if number == 1 else out / f"image-{number}", request))
    return "\n\n".join(texts)


def _read(path: Path) -> list[StoredImage]:
    """The DICOM objects at or below `path`; other files in a folder are passed over, as a DICOMDIR's neighbours are."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    images = []
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        try:
            stored = read_stored(file)
        except PixelError as error:
            # In a folder something else lies beside the images; a file that was named is meant to be one.
            if path.is_dir():
                continue
            raise UsageError(f"{file}: {error}") from error
        if stored.facts.sop_instance_uid:
            images.append(stored)
    if not images:
        raise UsageError(f"{path}: no DICOM object here (a SOPInstanceUID was found in no file)")
    return images
