"""Predictions for folders, tables and S3 prefixes of DICOM files, as Parquet: without an index, a PACS or documents.

The way: list the files (`inputs`) → read their headers (`headers`) → group them to studies with what may be their
priors (`plan`) → decode, choose the priors, ask the model (`work`) → rows (`rows`). The rules are those of the service.
"""
