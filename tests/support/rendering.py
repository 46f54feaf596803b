"""Helpers of the pixel tests: data sets made from arrays, and DCMTK's rendering of a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.support.common import program

DX_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.1")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")


def image_dataset(values: NDArray[Any], *, stored: int | None = None, **elements: Any) -> Dataset:
    """A DX image of stored values [H, W] or [frames, H, W], 8 or 16 bit, signed or not; elements: more by keyword."""
    signed = values.dtype.kind == "i"
    allocated = values.dtype.itemsize * 8
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DX_PRESENTATION
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID = DX_PRESENTATION, "2.25.1", "2.25.2"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    if values.ndim == 3:
        dataset.NumberOfFrames = values.shape[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = allocated, stored or allocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(signed)
    mask = (1 << dataset.BitsStored) - 1
    unsigned = values.astype(f"<u{values.dtype.itemsize}")
    dataset.PixelData = (unsigned & unsigned.dtype.type(mask)).tobytes() + b"\0" * (values.nbytes % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def lut_item(first: int, data: list[int], bits: int) -> Dataset:
    """An item of a Modality LUT or VOI LUT Sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(data) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(data, dtype="<u2").tobytes())
    return item


def written(dataset: Dataset, path: Path) -> Path:
    """The file of a data set."""
    dataset.save_as(path, enforce_file_format=True)
    return path


def dcmtk_grey(path: Path, folder: Path, *options: str) -> NDArray[np.int64]:
    """8-bit grey [Rows, Columns] as DCMTK renders the file; JPEG 2000, which it lacks, is unpacked by GDCM first."""
    syntax = getattr(dcmread(path, force=True, stop_before_pixels=True), "file_meta", {}).get("TransferSyntaxUID", "")
    if syntax in _JPEG_2000:
        raw = folder / "raw.dcm"
        subprocess.run(
            [program("gdcmconv", str(Path(sys.prefix) / "bin")), "--raw", str(path), str(raw)],
            check=True,
            capture_output=True,
        )
        path = raw
    tool = program("dcml2pnm" if syntax in _JPEG_LS else "dcmj2pnm")
    picture = folder / "dcmtk.pgm"
    done = subprocess.run([tool, "+op", *options, str(path), str(picture)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as opened:
        return np.asarray(opened.convert("L")).astype(np.int64)


def levels_apart(ours: NDArray[np.float32], theirs: NDArray[np.int64]) -> float:
    """The greatest difference in levels of 8 bits."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(np.float64) * 255.0 - theirs).max())
