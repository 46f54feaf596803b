"""Delivery of documents that ends in proof: C-STORE or STOW-RS, then storage commitment, C-FIND or QIDO-RS."""

from dicom_node.deliver.companions import add_companions
from dicom_node.deliver.handler import handle
from dicom_node.deliver.queue import enqueue_deliveries

__all__ = ["add_companions", "enqueue_deliveries", "handle"]
