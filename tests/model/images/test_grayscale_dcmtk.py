"""Our grey values against DCMTK's, within one level of 255: on every shared file and on made-up headers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless

from model.images.display import full_grey
from model.images.grayscale import HIGH_PERCENTILE, LOW_PERCENTILE
from model.images.read import read_dataset, stored_frame
from tests.support.common import SHARED, program, shared
from tests.support.rendering import dcmtk_grey, image_dataset, levels_apart, lut_item, written

ONE_LEVEL = 1.0 + 1e-3
"""DCMTK cuts fractions off where we keep them, so its level may be one below; float32 adds a hair."""


def _files() -> list[Path]:
    data = SHARED / "data"
    names = ("CR-MONO1-10-chest", "RG1_J2KI.dcm", "canine_dx_thorax_lateral.dcm", "nih_dx_secondarycapture.dcm")
    foreign = [
        data / "dicom" / n for n in (*names, "not_chest_CSPINE_CR.dcm", "not_chest_RG3_extremity_MONO1_J2KR.dcm")
    ]
    return [path for path in (*foreign, *sorted(data.glob("studies/*/*/*.dcm"))) if path.exists()]


@pytest.mark.shared_data
def test_every_shared_file_has_the_grey_values_of_dcmtk(tmp_path: Path) -> None:
    shared("data", "studies")
    worst: dict[str, float] = {}
    for path in _files():
        dataset = read_dataset(path)
        worst[f"{path.parent.parent.name}/{path.parent.name}/{path.name}"] = levels_apart(
            full_grey(dataset), dcmtk_grey(path, tmp_path, *_options(dataset))
        )
    assert len(worst) == 43
    assert {name: value for name, value in worst.items() if value > ONE_LEVEL} == {}


def _options(dataset: Dataset) -> list[str]:
    """Tell DCMTK to show what we show: the first VOI LUT, else the first window, else our percentiles."""
    if "VOILUTSequence" in dataset:
        return ["+Wl", "1"]
    if "WindowCenter" in dataset:
        return ["+Wi", "1"]
    if dataset.BitsStored == 8:
        return []
    low, high = np.percentile(stored_frame(dataset)[0], [LOW_PERCENTILE, HIGH_PERCENTILE])
    return ["+Ww", str((low + high) / 2 + 0.5), str(high - low + 1)]


def _ramp(low: int, high: int, kind: str, side: int = 64) -> NDArray[Any]:
    return np.linspace(low, high, side * side).round().astype(kind).reshape(side, side)


_WINDOWS: dict[str, tuple[NDArray[Any], int, dict[str, Any], list[str]]] = {
    "8 bit": (_ramp(0, 255, "u1"), 8, {"WindowCenter": 128, "WindowWidth": 256}, ["+Wi", "1"]),
    "narrow window": (_ramp(0, 255, "u1"), 8, {"WindowCenter": 90.5, "WindowWidth": 61}, ["+Wi", "1"]),
    "10 bit": (_ramp(0, 1023, "u2"), 10, {"WindowCenter": 400, "WindowWidth": 700}, ["+Wi", "1"]),
    "12 bit, rescaled": (
        _ramp(0, 4095, "u2"),
        12,
        # a whole slope: DCMTK cuts the rescaled values to integers before the window, which adds to its rounding
        {"WindowCenter": 4000, "WindowWidth": 7000, "RescaleSlope": "2", "RescaleIntercept": "-100"},
        ["+Wi", "1"],
    ),
    "14 bit": (_ramp(0, 16383, "u2"), 14, {"WindowCenter": 8000, "WindowWidth": 9000}, ["+Wi", "1"]),
    "16 bit": (_ramp(0, 65535, "u2"), 16, {"WindowCenter": 30000, "WindowWidth": 50000}, ["+Wi", "1"]),
    "signed 12 bit": (_ramp(-2048, 2047, "i2"), 12, {"WindowCenter": -200, "WindowWidth": 2000}, ["+Wi", "1"]),
    "signed 16 bit": (_ramp(-32768, 32767, "i2"), 16, {"WindowCenter": 0, "WindowWidth": 40000}, ["+Wi", "1"]),
    "signed 8 bit": (_ramp(-128, 127, "i1"), 8, {"WindowCenter": 10, "WindowWidth": 120}, ["+Wi", "1"]),
    "first of two": (
        _ramp(0, 4095, "u2"),
        12,
        {"WindowCenter": ["1000", "3000"], "WindowWidth": ["1500", "200"]},
        ["+Wi", "1"],
    ),
    "sigmoid": (
        _ramp(0, 4095, "u2"),
        12,
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
        ["+Wi", "1"],
    ),
    "MONOCHROME1": (
        _ramp(0, 4095, "u2"),
        12,
        {"WindowCenter": 2000, "WindowWidth": 3000, "PhotometricInterpretation": "MONOCHROME1"},
        ["+Wi", "1"],
    ),
    "MONOCHROME1 and INVERSE": (
        _ramp(0, 4095, "u2"),
        12,
        {
            "WindowCenter": 2000,
            "WindowWidth": 3000,
            "PhotometricInterpretation": "MONOCHROME1",
            "PresentationLUTShape": "INVERSE",
        },
        ["+Wi", "1"],
    ),
    "MONOCHROME2 and INVERSE": (
        _ramp(0, 4095, "u2"),
        12,
        {"WindowCenter": 2000, "WindowWidth": 3000, "PresentationLUTShape": "INVERSE"},
        ["+Wi", "1"],
    ),
    "MONOCHROME1 and IDENTITY": (
        _ramp(0, 4095, "u2"),
        12,
        {
            "WindowCenter": 2000,
            "WindowWidth": 3000,
            "PhotometricInterpretation": "MONOCHROME1",
            "PresentationLUTShape": "IDENTITY",
        },
        ["+Wi", "1"],
    ),
    "VOI LUT": (
        _ramp(0, 4095, "u2"),
        12,
        {"VOILUTSequence": [lut_item(500, [min(k * k // 2000, 4095) for k in range(3000)], 12)]},
        ["+Wl", "1"],
    ),
    "VOI LUT below zero": (
        _ramp(-2048, 2047, "i2"),
        12,
        {"VOILUTSequence": [lut_item(-1000, [k // 2 for k in range(2000)], 10)]},
        ["+Wl", "1"],
    ),
    "VOI LUT that begins below a film without negative values": (
        _ramp(0, 2047, "i2"),
        12,
        {"VOILUTSequence": [lut_item(-1000, [max(k - 1000, 0) // 2 for k in range(3000)], 10)]},
        ["+Wl", "1"],
    ),
    "modality LUT": (
        _ramp(0, 1023, "u2"),
        10,
        {
            "ModalityLUTSequence": [lut_item(0, [1000 + k * k // 512 for k in range(1024)], 12)],
            "WindowCenter": 2000,
            "WindowWidth": 2000,
        },
        ["+Wi", "1"],
    ),
}


_PACKERS: dict[str, tuple[str, ...]] = {
    "JPEG baseline": ("dcmcjpeg", "+eb"),
    "JPEG extended": ("dcmcjpeg", "+ee"),
    "JPEG lossless": ("dcmcjpeg", "+el"),
    "JPEG lossless, first order": ("dcmcjpeg", "+e1"),
    "JPEG-LS": ("dcmcjpls", "+el"),
    "JPEG-LS, near lossless": ("dcmcjpls", "+en"),
    "JPEG 2000": ("gdcmconv", "--j2k"),
    "RLE": ("dcmcrle",),
    "deflated": ("dcmconv", "+td"),
    "big endian": ("dcmconv", "+tb"),
    "implicit": ("dcmconv", "+ti"),
}
_DEPTHS = [(8, False), (8, True), *((bits, signed) for bits in (10, 12, 14, 16) for signed in (False, True))]


def _structured(bits: int, signed: bool) -> NDArray[Any]:
    """Smooth waves over the whole range."""
    y, x = np.mgrid[:96, :112]
    low = -(1 << (bits - 1)) if signed else 0
    values = low + (np.sin(x / 17) + np.cos(y / 11) + 2) / 4 * ((1 << bits) - 1)
    waves: NDArray[Any] = values.round().astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    return waves


@pytest.mark.parametrize("packer", _PACKERS)
def test_every_transfer_syntax_in_every_depth_has_the_grey_values_of_dcmtk(packer: str, tmp_path: Path) -> None:
    seen = 0
    for bits, signed in _DEPTHS:
        if packer == "JPEG-LS, near lossless" and signed:
            continue  # DCMTK makes none
        values = _structured(bits, signed)
        middle, width = (int(values.max()) + int(values.min())) / 2, 0.8 * (1 << bits)
        dataset = image_dataset(values, stored=bits, WindowCenter=middle, WindowWidth=width)
        if bits in (10, 12, 14):  # what stands above BitsStored, an old overlay, does not count
            words = np.frombuffer(dataset.PixelData, dtype="<u2")
            noise = np.random.default_rng(bits).integers(0, 1 << (16 - bits), words.shape) << bits
            dataset.PixelData = (words | noise.astype("<u2")).tobytes() if not signed else dataset.PixelData
        plain = written(dataset, tmp_path / "plain.dcm")
        packed = tmp_path / "packed.dcm"
        command = [program(_PACKERS[packer][0], str(Path(sys.prefix) / "bin")), *_PACKERS[packer][1:]]
        subprocess.run([*command, str(plain), str(packed)], check=True, capture_output=True)
        theirs = dcmtk_grey(packed, tmp_path, "+Wi", "1")
        assert theirs.min() == 0
        assert theirs.max() == 255
        assert levels_apart(full_grey(read_dataset(packed)), theirs) <= ONE_LEVEL, (bits, signed)
        packed.unlink()
        seen += 1
    assert seen >= 5


@pytest.mark.parametrize("signed", [False, True])
def test_high_throughput_jpeg_2000_gives_the_stored_values(signed: bool) -> None:
    """Nothing here writes it: the two code streams were made of these very values by OpenJPH (imagecodecs 2026.3.6)."""
    values = _structured(12, signed)
    stream = Path(__file__).with_name(f"waves_12bit{'_signed' if signed else ''}.jhc").read_bytes()
    dataset = image_dataset(values, stored=12)
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    assert np.array_equal(stored_frame(dataset)[0], values)


@pytest.mark.parametrize("name", _WINDOWS)
def test_a_made_up_header_has_the_grey_values_of_dcmtk(name: str, tmp_path: Path) -> None:
    values, stored, elements, options = _WINDOWS[name]
    dataset = image_dataset(values, stored=stored, **elements)
    theirs = dcmtk_grey(written(dataset, tmp_path / "made.dcm"), tmp_path, *options)
    assert theirs.min() < 60, "the ramp must show something"
    assert theirs.max() > 200
    assert levels_apart(full_grey(dataset), theirs) <= ONE_LEVEL
