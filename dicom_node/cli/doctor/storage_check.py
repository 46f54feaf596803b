"""The doctor's check of the object store: it can be written, it honours conditions, and its clock is right."""

from __future__ import annotations

import datetime as dt
import secrets
import time

from dicom_node.cli.doctor.machine_checks import Check, Grade
from dicom_node.config import Settings
from dicom_node.storage.opening import bucket_of, open_store

MAX_SKEW_SECONDS = 600.0
"""Recovery leaves objects alone that are younger than an hour; S3 itself refuses a request that is 15 minutes off."""


def object_store(settings: Settings) -> Check:
    """Write, overwrite under a condition, look and delete. Raises NodeError, which says what is wrong."""
    store = open_store(settings)
    started = time.perf_counter()
    store.probe()
    milliseconds = 1000 * (time.perf_counter() - started)
    bucket, key = bucket_of(settings.storage), f"probe/{secrets.token_hex(8)}"
    bucket.put(key, b"clock")
    stored = bucket.look(key)
    bucket.delete(key)
    skew = abs((dt.datetime.now(dt.UTC) - stored.modified_at).total_seconds()) if stored is not None else 0.0
    text = f"{store.place()}: written and deleted in {milliseconds:.0f} ms, refuses to overwrite"
    if skew > MAX_SKEW_SECONDS:
        return Check(what="object store", grade=Grade.BAD, text=f"{text}; its clock differs by {skew:.0f} s")
    return Check(what="object store", grade=Grade.GOOD, text=text)
