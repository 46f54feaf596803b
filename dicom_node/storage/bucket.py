"""One S3 bucket, or a prefix of one, through obstore: the calls that the node makes, and what their errors mean.

Whatever the service or the network does wrong becomes StoreUnavailableError, in one line: obstore's own texts go on
with a dump of the request. Credentials come from a file or from the environment and stand in no message.
"""

from __future__ import annotations

import configparser
import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dicom_node.config import StorageSection
from dicom_node.errors import ConfigurationError
from dicom_node.storage.instance_store import StoreUnavailableError

if TYPE_CHECKING:
    from obstore.store import S3Store

NO_BUCKET: Final = "NoSuchBucket"
CONNECT_SECONDS: Final = 5.0
FIRST_PAUSE_SECONDS: Final = 0.2
MAX_RETRIES: Final = 2
"""Of a request that never reached the service or was answered with 5xx. A request that timed out is the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object: key, length, ETag, when it was written (by the service's clock), and the attributes given to it."""

    key: str
    size: int
    e_tag: str
    modified_at: dt.datetime
    attributes: Mapping[str, str]


class Bucket:
    """The node's part of a bucket. Safe for threads; each process makes its own."""

    def __init__(self, section: StorageSection) -> None:
        self.section = section
        self._store = _s3_store(section)

    def place(self) -> str:
        """Name the bucket for people."""
        prefix = f"/{self.section.prefix.strip('/')}" if self.section.prefix.strip("/") else ""
        return f"s3://{self.section.bucket}{prefix} at {self.section.endpoint or self.section.region}"

    def put_new(self, key: str, content: Path | bytes, attributes: Mapping[str, str]) -> bool:
        """Write an object unless its key is taken (If-None-Match: *), in one request; False where it is taken."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._errors():
            try:
                obstore.put(
                    self._store,
                    key,
                    content,
                    mode="create",
                    use_multipart=False,
                    attributes=_with_content_type(attributes),
                )
            except AlreadyExistsError:
                return False
            return True

    def put(self, key: str, content: bytes) -> str:
        """Write an object, whether or not its key is taken; return its ETag."""
        import obstore

        with self._errors():
            return str(obstore.put(self._store, key, content, use_multipart=False)["e_tag"])

    def swap(self, key: str, content: bytes, *, e_tag: str | None) -> bool:
        """Write an object only while it is the one of this ETag (None: while there is none); False otherwise."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._errors():
            try:
                # If-None-Match or If-Match: the service compares and writes in one step, so of two machines that swap
                # one is refused.
                mode: Any = "create" if e_tag is None else {"e_tag": e_tag}
                obstore.put(self._store, key, content, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def look(self, key: str) -> StoredObject | None:
        """Return what is known of an object; None where there is none."""
        return self._get(key, None)

    def download(self, key: str, target: Path) -> StoredObject | None:
        """Write an object's bytes into a file; None where there is no such object."""
        return self._get(key, target)

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and ETag; None where there is none."""
        import obstore

        with self._errors():
            try:
                answer = obstore.get(self._store, key)
                return bytes(answer.bytes()), str(answer.meta["e_tag"])
            except FileNotFoundError as error:
                _require_bucket(error)
                return None

    def has(self, key: str) -> bool:
        """Return whether there is an object of this key."""
        import obstore

        with self._errors():
            try:
                obstore.head(self._store, key)
                return True
            except FileNotFoundError:
                pass  # the answer to a HEAD has no body: it could be the bucket that is not there
        return self.look(key) is not None

    def copy(self, key: str, target: str) -> None:
        """Copy an object inside the bucket, with its attributes. Raises FileNotFoundError."""
        import obstore

        with self._errors():
            obstore.copy(self._store, key, target)

    def delete(self, keys: str | list[str]) -> None:
        """Delete objects; one that is not there is no error."""
        import obstore

        with self._errors():
            obstore.delete(self._store, keys)

    def list(self, prefix: str) -> Iterator[tuple[str, dt.datetime]]:
        """Yield key and time of every object below a prefix, in the order of the keys."""
        import obstore

        with self._errors():
            for chunk in obstore.list(self._store, prefix=prefix):
                for entry in chunk:
                    yield entry["path"], entry["last_modified"]

    def _get(self, key: str, target: Path | None) -> StoredObject | None:
        import obstore

        with self._errors():
            try:
                answer = obstore.get(self._store, key)
            except FileNotFoundError as error:
                # A missing bucket also reads as "not found", and would make every object look lost.
                _require_bucket(error)
                return None
            meta, attributes = answer.meta, dict(answer.attributes)
            if target is not None:
                with target.open("wb") as file:
                    for chunk in answer:
                        file.write(memoryview(chunk))
        return StoredObject(
            key=key,
            size=meta["size"],
            e_tag=str(meta["e_tag"]),
            modified_at=meta["last_modified"],
            attributes={name.lower(): str(value) for name, value in attributes.items()},
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, PermissionError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and NO_BUCKET not in str(error):
                raise
            # The first line only: what follows repeats the request with its headers, and perhaps the service's page of
            # XML.
            text = str(error).split("\n", 1)[0].split(": <?xml", 1)[0]
            raise StoreUnavailableError(f"the object store {self.place()} does not work: {text}") from error


def _require_bucket(error: FileNotFoundError) -> None:
    """Raise the error where it is the bucket that is missing: that says nothing about an object."""
    if NO_BUCKET in str(error):
        raise error


def _with_content_type(attributes: Mapping[str, str]) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", **attributes}


def _s3_store(section: StorageSection) -> S3Store:
    """Open the bucket. Raises ConfigurationError where the extra is missing or the credentials cannot be read."""
    try:
        from obstore.store import S3Store
    except ModuleNotFoundError as error:
        raise ConfigurationError('storage.kind "s3" needs the extra: pip install "dicom-node[s3]"') from error
    options: dict[str, Any] = {}
    if section.endpoint is not None:
        options["endpoint"] = section.endpoint
    if section.credentials_file is not None:
        options.update(_credentials(section.credentials_file))
    client: dict[str, Any] = {
        "timeout": dt.timedelta(seconds=section.request_seconds),
        "connect_timeout": dt.timedelta(seconds=CONNECT_SECONDS),
        # Plain HTTP only where the configured address itself says so: a redirect or a default must not strip TLS.
        "allow_http": (section.endpoint or "").startswith("http://"),
    }
    if section.ca is not None:
        try:
            client["root_certificate"] = section.ca.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"storage.ca {section.ca} cannot be read: {error}") from error
    return S3Store(
        section.bucket,
        prefix=section.prefix.strip("/") or None,
        region=section.region,
        client_options=client,  # type: ignore[arg-type]  # built key by key
        retry_config={
            "max_retries": MAX_RETRIES,
            "retry_timeout": dt.timedelta(seconds=section.request_seconds),
            "backoff": {
                "init_backoff": dt.timedelta(seconds=FIRST_PAUSE_SECONDS),
                "max_backoff": dt.timedelta(seconds=1),
                "base": 2,
            },
        },
        **options,
    )


def _credentials(path: Path) -> dict[str, str]:
    """Read a file in the form of ~/.aws/credentials, section [default]. No message repeats what stands in it."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text("utf-8"))
        profile = parser["default"]
        given = {
            "access_key_id": profile["aws_access_key_id"],
            "secret_access_key": profile["aws_secret_access_key"],
        }
    except OSError as error:
        raise ConfigurationError(f"storage.credentials_file {path} cannot be read: {error.strerror}") from error
    except (KeyError, UnicodeDecodeError, configparser.Error):
        raise ConfigurationError(
            f"storage.credentials_file {path}: needs a section [default] with aws_access_key_id and"
            " aws_secret_access_key"
        ) from None
    token = profile.get("aws_session_token")
    return given if token is None else given | {"token": token}
