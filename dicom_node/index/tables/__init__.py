"""The tables of the index, by domain."""
