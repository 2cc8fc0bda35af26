"""The public API, a file for each thing one does with it. Everything is importable from `align` itself, lazily."""
