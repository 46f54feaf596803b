"""The demonstration: a node and a small PACS on loopback."""
