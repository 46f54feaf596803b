"""Where instances and documents are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_node.config.types import Seconds, Section, WebAddress


class StorageSection(Section):
    """Where instances and documents are kept: below data_dir, or in an S3 bucket that several machines share."""

    kind: Literal["folder", "s3"] = Field(
        default="folder", description='"folder" or "s3"; `dicom-node store migrate` moves a folder into a bucket'
    )
    bucket: str = Field(default="", description="name of the bucket")
    endpoint: WebAddress | None = Field(
        default=None,
        description="address of the service; none: Amazon S3 of the region",
        examples=["https://s3.example"],
    )
    region: str = Field(default="us-east-1", min_length=1, description="region of the bucket")
    prefix: str = Field(default="", description="what all keys of this node begin with")
    credentials_file: Path | None = Field(
        default=None,
        description="file like ~/.aws/credentials; none: AWS_ACCESS_KEY_ID and so on, or the machine's role",
        examples=["s3.credentials"],
    )
    ca: Path | None = Field(
        default=None,
        description="certificate of a private authority that signs the service's",
        examples=["s3-ca.crt"],
    )
    cache_gigabytes: float = Field(
        default=20.0,
        gt=0,
        description="local copies of instances; the longest unused go",
    )
    request_seconds: Seconds = Field(default=30.0, description="how long one request may take")

    @model_validator(mode="after")
    def _bucket_is_named(self) -> StorageSection:
        if self.kind == "s3" and not self.bucket:
            raise ValueError('bucket: kind = "s3" needs the name of a bucket')
        return self
