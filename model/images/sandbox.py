"""Decoding a file that came from a peer: in a child process with limits, which dies in place of the caller.

One child serves many files, since starting one costs most of a second; it is replaced after every fault and after
`IMAGES_PER_CHILD` files. It is a plain subprocess, so that daemonic processes may use it too, and it answers in JSON
and raw floats: a decoder that was taken over by a hostile file must not be able to pickle its way into the caller.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import PixelError
from model.images.read import MAX_FRAME_PIXELS
from model.schema import DisplayImage, SourceGeometry

TIMEOUT_SECONDS = 30.0
MEMORY_BYTES = 2 << 30
"""Beyond the idle child; a film of 64 million pixels needs about 1.2 GiB on its way."""
IMAGES_PER_CHILD = 500
START_SECONDS = 60.0
"""On top of the time-out of the first file: importing the decoders from a cold disk."""

_MAX_HEADER_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
_TIME = "out of time"


class _Fault(Exception):
    """The child did not answer as agreed; it has to be replaced."""


class _DecoderChild:
    """One decoder process and the two pipes to it."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        environment.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "model.images.sandbox_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Unbuffered, because `_read` waits by select: bytes in a buffer of Python's would be invisible to it.
            bufsize=0,
            env=environment,
        )
        self.served = 0
        self.owner = os.getpid()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        with contextlib.suppress(OSError):  # larger pipes are only faster; the system may refuse them
            fcntl.fcntl(self._answers, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def ask(self, request: dict[str, Any], deadline: float) -> DisplayImage:
        """Have one image decoded. Raises PixelError where the child refuses it, _Fault for what ends the child."""
        self.served += 1
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise _Fault("the decoder is gone") from error
        length = struct.unpack(">I", self._read(4, deadline))[0]
        if length > _MAX_HEADER_BYTES:
            raise _Fault("the decoder answered nonsense")
        try:
            header = json.loads(bytes(self._read(length, deadline)))
            if "error" in header:
                raise PixelError(str(header["error"]))
            # The child may be in the hands of a hostile file: no size that it names is believed.
            rows, columns = (int(side) for side in header["shape"])
            if not 0 < rows * columns <= MAX_FRAME_PIXELS:
                raise _Fault("the decoder answered nonsense")
            pixels = np.frombuffer(self._read(rows * columns * 4, deadline), dtype=np.float32)
            return _image(header, pixels.reshape(rows, columns))
        except (ValueError, KeyError, TypeError) as error:
            raise _Fault("the decoder answered nonsense") from error

    def _read(self, count: int, deadline: float) -> memoryview:
        # numpy asks the system for large pages: to fill a film's memory page by page takes as long as to copy it.
        data = np.empty(count, dtype=np.uint8).data
        view = data
        descriptor = self._answers.fileno()
        while view:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Fault(_TIME)
            chunk = os.readv(descriptor, [view])
            if chunk == 0:
                raise _Fault("the decoder died")
            view = view[chunk:]
        return data

    def end(self, grace_seconds: float = 0.0) -> int:
        """Kill the child unless it ends within the grace; the status it ended with by itself (negative: a signal)."""
        died_by_itself = self._has_exited_within(grace_seconds)
        if not died_by_itself:
            self.process.kill()
        self._requests.close()
        self._answers.close()
        status = self.process.wait()
        return status if died_by_itself else 0

    def _has_exited_within(self, seconds: float) -> bool:
        """Tell whether it has ended, or does as soon as the system has cleaned up after it (its pipe closes first)."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class _Pool:
    """The one child of this process, started on first use."""

    def __init__(self) -> None:
        self._child: _DecoderChild | None = None
        self._lock = threading.Lock()

    def decode(self, path: Path, *, timeout_seconds: float, memory_bytes: int, crop: bool) -> DisplayImage:
        request = {
            "path": str(path.resolve()),
            "seconds": timeout_seconds,
            "memory_bytes": memory_bytes,
            "crop": crop,
        }
        with self._lock:
            child, started = self._running()
            deadline = time.monotonic() + timeout_seconds + (START_SECONDS if started else 0.0)
            try:
                return child.ask(request, deadline)
            except _Fault as fault:
                self._child = None
                # a crash closes the pipe a moment before the exit status is there
                status = child.end(grace_seconds=0.0 if str(fault) == _TIME else 1.0)
                raise PixelError(_words(fault, status, timeout_seconds)) from fault

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            if self._child is not None:
                if self._child.owner == os.getpid():
                    self._child.end()
                self._child = None

    def _running(self) -> tuple[_DecoderChild, bool]:
        child = self._child
        if child is not None and child.owner != os.getpid():
            child = self._child = None  # inherited over a fork: it belongs to the other process
        if child is not None and (child.served >= IMAGES_PER_CHILD or child.process.poll() is not None):
            child.end()
            child = self._child = None
        if child is not None:
            return child, False
        self._child = _DecoderChild()
        return self._child, True


_pool = _Pool()
atexit.register(_pool.close)


def decode_in_child(
    path: Path, *, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES, crop: bool = True
) -> DisplayImage:
    """The display image of a file, decoded in a child with limits on time and memory.

    timeout_seconds: wall and processor time for this file. memory_bytes: what decoding may take beyond the idle child.
    Raises PixelError in words fit for a report; the caller lives whatever the file does. Thread-safe, one at a time.
    """
    return _pool.decode(path, timeout_seconds=timeout_seconds, memory_bytes=memory_bytes, crop=crop)


def _image(header: dict[str, Any], pixels: np.ndarray[Any, np.dtype[np.float32]]) -> DisplayImage:
    acquired = header["acquired"]
    return DisplayImage(
        pixels=pixels,
        geometry=_geometry(header["geometry"]),
        view=header["view"],
        sop_instance_uid=str(header["sop_instance_uid"]),
        study_instance_uid=str(header["study_instance_uid"]),
        acquired=dt.datetime.fromisoformat(acquired) if acquired else None,
        sha256=str(header["sha256"]),
    )


def _geometry(values: dict[str, Any]) -> SourceGeometry:
    whole = {name: int(value) for name, value in values.items() if name != "pixel_aspect"}
    return SourceGeometry(**whole, pixel_aspect=float(values["pixel_aspect"]))


def _words(fault: _Fault, status: int, timeout_seconds: float) -> str:
    """The error in words, for a report."""
    if str(fault) == _TIME or status == -signal.SIGXCPU:
        return f"decoding took longer than {timeout_seconds:g} s"
    if status < 0:
        return f"the decoder crashed on this image (signal {-status})"
    return f"{fault} on this image"
