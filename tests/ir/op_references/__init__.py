"""What each primitive means, from outside: PyTorch, Python's own numbers, and plain loops over definitions."""
