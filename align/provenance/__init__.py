"""Provenance: what came from what, what is to be forgotten, and what is given to others."""
