"""Kits for testing what stands on RLX: op samples with tolerances, and random graphs."""
