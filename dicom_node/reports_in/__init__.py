"""Radiologists' reports: in by C-STORE or HL7, read by the labeller, matched to our result, turned into feedback."""
