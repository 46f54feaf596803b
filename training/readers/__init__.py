"""Readers of published data sets and of the node's own studies: each yields `training.records.record.Record` and
counts drops.

| set | function |
|---|---|
| MIMIC-CXR-JPG 2.1.0 | `mimic.read_mimic_cxr_jpg` |
| MIMIC-CXR 2.1.0 (DICOM) | `mimic_dicom.read_mimic_cxr_dicom` |
| Medical-Diff-VQA 1.0.1 | `diffvqa.read_medical_diff_vqa` |
| MS-CXR-T 1.0.0 | `mscxrt.read_ms_cxr_t` |
| CheXTemporal | `chextemporal.read_chextemporal` |
| MI-CXR (multiple choice) | `micxr.read_mi_cxr` |
| NIH ChestX-ray14 | `nih.read_nih` |
| Hannover COVID-19 Image Repository | `hannover.read_hannover` |
| the node's own studies with feedback | `site.read_site` |

A missing file or column, or a file that is cut off, raises `DataError` and names it; a bad row is dropped and counted.
"""
