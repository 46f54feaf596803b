"""The node's settings: one TOML file, every key typed and described in its class, every wrong one refused by name.

The template of `dicom-node init`, config.example.toml and the reference page are made from these classes
(`scripts/write_configuration.py`).
"""

from dicom_node.config.chart import ChartSection
from dicom_node.config.models import DEMO, DriftSection, FeedbackSection, ModelSection, RetrainSection
from dicom_node.config.node import CompletionSection, DatabaseSection, LoggingSection, NodeSection
from dicom_node.config.oidc import OidcSection
from dicom_node.config.peers import DeliverySection, Destination, PriorsSection, QueryPeer, Retrieve, TlsClient, Verify
from dicom_node.config.receive import WANTED_CLASSES, AccessSection, Hl7Section, ReceivePeer, ReceiveSection, TlsSection
from dicom_node.config.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, Settings, config_path, load_settings
from dicom_node.config.storage import StorageSection
from dicom_node.config.types import Section
from dicom_node.config.upkeep import (
    VIEWER_PLACES,
    AuditSection,
    NotifySection,
    RetentionSection,
    Role,
    WebSection,
    WebUser,
)

__all__ = [
    "AccessSection",
    "AuditSection",
    "CONFIG_VARIABLE",
    "ChartSection",
    "CompletionSection",
    "DEFAULT_CONFIG",
    "DEMO",
    "DatabaseSection",
    "DeliverySection",
    "Destination",
    "DriftSection",
    "FeedbackSection",
    "Hl7Section",
    "LoggingSection",
    "ModelSection",
    "NodeSection",
    "NotifySection",
    "OidcSection",
    "PriorsSection",
    "QueryPeer",
    "ReceivePeer",
    "ReceiveSection",
    "RetentionSection",
    "RetrainSection",
    "Retrieve",
    "Role",
    "Section",
    "Settings",
    "StorageSection",
    "TlsClient",
    "TlsSection",
    "VIEWER_PLACES",
    "Verify",
    "WANTED_CLASSES",
    "WebSection",
    "WebUser",
    "config_path",
    "load_settings",
]
