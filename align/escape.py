"""Text that files and databases refuse, as text that they take, and back.

UTF-8 has no lone surrogates, and neither PostgreSQL's text nor JSONB takes NUL. `escape` writes such a character as the
mark ␛ (U+241B, the picture of the escape key, which hardly any text has), `u` and four hexadecimal digits: NUL is
`␛u0000`. The mark itself becomes `␛u241b`, so that every text comes back exactly. All other text stays as it is: code
with backslashes too.
"""

import re

MARK = "␛"
_REFUSED = re.compile(f"[\0\ud800-\udfff{MARK}]")
_ESCAPED = re.compile(f"{MARK}u([0-9a-f]{{4}})")


def escape(text: str) -> str:
    """`text` without NUL and lone surrogates; `unescape` gives it back."""
    return _REFUSED.sub(lambda found: f"{MARK}u{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
