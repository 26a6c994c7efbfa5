"""Moves: one short adaptor for each method that composes in ``fit``, found through the registry."""
