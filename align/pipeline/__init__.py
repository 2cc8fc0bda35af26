"""The pipeline: stages that are found again by a key, their receipts, and the runner. It knows no stage by name."""
