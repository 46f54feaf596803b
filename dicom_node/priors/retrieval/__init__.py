"""Retrieval of priors from archives by C-FIND with C-MOVE or C-GET, and by DICOMweb."""
