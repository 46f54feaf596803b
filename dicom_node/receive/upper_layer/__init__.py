"""The DICOM upper layer for acceptors (PS3.8) and the DIMSE messages on it (PS3.7)."""
