"""The public API, one file for each task. All names can be imported from `align` itself, lazily."""
