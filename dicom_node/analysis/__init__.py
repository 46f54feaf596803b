"""The analysis of one study, from files to a result and its documents."""
