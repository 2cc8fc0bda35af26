"""Sampling answers: engines behind one Protocol, and shards that survive a kill."""
