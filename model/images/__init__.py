"""DICOM and picture files to display images."""
