"""The index: what the node holds and what it still has to do, in one SQLAlchemy database."""
