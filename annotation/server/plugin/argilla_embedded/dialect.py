"""Which database Argilla runs on, and so in which dialect our SQL is written.

`sqlite` and `postgresql` have the same names: the pieces of SQL that differ, how a value is bound, and the statements
that make our tables and take away what would be in the way of Argilla's migrations. Everything else is written once.
"""

from argilla_embedded import postgresql, sqlite
from argilla_server.settings import settings

dialect = postgresql if settings.database_is_postgresql else sqlite
