"""Composites: ops with a name and a body in primitives. Importing this package registers them all."""
