"""The round engine: stages, the journal, the runner, lineage."""
