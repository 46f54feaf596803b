"""The receiver: C-ECHO, C-STORE, storage commitment and C-FIND as SCP, hardened against strangers."""

from dicom_node.receive.receiver import Receiver, run_receiver

__all__ = ["Receiver", "run_receiver"]
