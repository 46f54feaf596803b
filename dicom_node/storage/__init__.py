"""The store of received instances and of documents."""
