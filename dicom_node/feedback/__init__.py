"""What radiologists say of the node's results."""
