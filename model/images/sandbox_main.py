"""The other side of `model.images.sandbox`: decodes one file after the other within limits of memory and processor
time.

Protocol: a line of JSON in on the standard input, `{"path", "seconds", "memory_bytes", "crop"}`; out on what was the
standard output: 4 bytes (big endian) length of a JSON header, the header, then the float32 pixels that it announces.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from model.errors import PixelError
from model.images.light_pydicom import import_pydicom
from model.schema import DisplayImage

gc.disable()  # nothing that is imported is garbage
import_pydicom()

from model.images.display import load_display_image  # noqa: E402 (after pydicom)

gc.freeze()
gc.enable()


def main() -> None:
    """Serve until the standard input ends, which it does when the parent is gone."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a decoder library prints must not get between the answers
    # The core dump of a crash would hold a patient's picture.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit(request["seconds"], request["memory_bytes"])
        try:
            image = load_display_image(Path(request["path"]), crop=request["crop"])
        except PixelError as error:
            _answer(answers, {"error": str(error)})
        except MemoryError:
            _answer(answers, {"error": "the image needs more memory than a decoder is given"})
            return  # what the failed attempt left behind is not worth finding out
        else:
            _answer(answers, header_of(image), np.ascontiguousarray(image.pixels).data.cast("B"))


def header_of(image: DisplayImage) -> dict[str, Any]:
    """Everything of a display image but its pixels, as JSON."""
    return {
        "shape": list(image.pixels.shape),
        "geometry": dataclasses.asdict(image.geometry),
        "view": image.view,
        "sop_instance_uid": image.sop_instance_uid,
        "study_instance_uid": image.study_instance_uid,
        "acquired": image.acquired.isoformat() if image.acquired else None,
        "sha256": image.sha256,
    }


def _limit(seconds: float, memory_bytes: int) -> None:
    """Processor time from now on, and memory beyond what the idle process maps (libraries are half a gigabyte)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    # The limit counts the process's whole life in whole seconds, so it moves on with each file.
    processor = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (processor, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    mapped = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(stream: BinaryIO, header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    text = json.dumps(header).encode()
    for data in (struct.pack(">I", len(text)) + text, body):
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]


if __name__ == "__main__":
    main()
