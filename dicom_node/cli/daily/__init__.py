"""An administrator's daily work: what the node holds and does, and what to do about it."""
