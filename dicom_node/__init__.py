"""DICOM node: receives studies, compares chest radiographs with their priors, returns Structured Reports."""
