"""DICOM as bytes and names: headers, SOP classes, UIDs and rejection notes."""
