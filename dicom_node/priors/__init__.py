"""Which image is looked at, and which earlier one it may be compared with."""
