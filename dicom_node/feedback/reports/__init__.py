"""Radiologists' reports: received by C-STORE or HL7, read by the labeller, matched to a result, turned into
feedback."""
