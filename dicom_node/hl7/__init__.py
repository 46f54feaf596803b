"""HL7 v2: the encoding rules that every reader of its messages uses."""
