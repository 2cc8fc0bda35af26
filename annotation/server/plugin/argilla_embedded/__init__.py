"""Runs inside Argilla's server: a search engine over its own database, no Redis, a mended user interface.

Imported only by Argilla's interpreter (`python -m argilla_embedded`), never by ours.
"""

ENGINE = "embedded"
"""Name of the search engine; lower case, for Argilla lower-cases the setting."""
