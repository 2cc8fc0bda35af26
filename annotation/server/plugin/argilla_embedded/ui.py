"""Mends the copy of the user interface that this process serves, and fails loudly where it is not the one we know.

1. A custom field builds `<script>const record = JSON</script>` without escaping. `</script>` in any field ends the
   script (and starts another: an attack), `$` is special to String.replace, `#TEMPLATE#` in a record is replaced too.
2. Two stylesheets come from Google's servers; the page falls back to the system's fonts.
3. A Content-Security-Policy forbids the browser everything that is not on this server, whatever a record shows.
4. The API's documentation pages load their scripts from a CDN; they are not served.
5. Behind "the task is completed" the form of the last record stays, and its keys: Enter answers it once more. Where
there
   is something to be said in a record's place there is no form, and at the end it says thank you.
6. The names of data sets are broken between letters.
7. What it calls the team's progress is an annotator's own here.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from argilla_server.api.routes import api_v1
from fastapi import FastAPI, Request, Response

POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Argilla's pages and templates need both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "frame-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)


@dataclass(frozen=True)
class Mend:
    """Replace `old` by `new` (where `@` stands for old's group) in every file with that suffix; `files` of them must
    have it."""

    suffix: str
    old: re.Pattern[str]
    new: str
    files: int

    def replacement(self, match: re.Match[str]) -> str:
        return self.new.replace("@", match[1]) if match.re.groups else self.new


THANKS = "Done, thank you! There is nothing left for you to answer here."

MENDS = [
    Mend(
        ".js",
        re.compile(re.escape("JSON.stringify(this.sdkRecord);")),
        'JSON.stringify(this.sdkRecord).replace(/[<$#\\u2028\\u2029]/g,function(c){return"\\\\u"+("000"+c.charCodeAt(0).toString(16)).slice(-4)});',
        8,
    ),
    Mend(
        ".js",
        re.compile(r'\.replace\("#RECORD_OBJECT#",(\w)\)\.replace\("#TEMPLATE#",this\.content\)'),
        '.replace("#RECORD_OBJECT#",()=>@).replace("#TEMPLATE#",()=>this.content)',
        8,
    ),
    # an annotator's is their own (see privacy)
    Mend(".js", re.compile("Team (?:Annotation-P|p)rogress"), "Progress", 9),
    Mend(
        ".js",
        re.compile(re.escape('[e.record?t("QuestionsForm",')),
        '[e.record&&!e.recordsMessage?t("QuestionsForm",',
        4,
    ),
    Mend(
        ".js",
        re.compile('taskDistributionCompleted:"🎉 The task is completed!"'),
        f'taskDistributionCompleted:"{THANKS}"',
        1,
    ),
    Mend(
        ".js",
        re.compile('noPendingRecordsToAnnotate:"🎉 Your have no pending records to annotate"'),
        f'noPendingRecordsToAnnotate:"{THANKS}"',
        1,
    ),
    Mend(
        ".js",
        re.compile(r'"submitted"===(\w)\?n\("noRecordsMessages\.noSubmittedRecords"\):'),
        '"submitted"===@?n("noRecordsMessages.noSubmittedRecords"):"pending"===@?n("noRecordsMessages.noPendingRecordsToAnnotate"):',
        2,
    ),
    Mend(
        ".css",
        re.compile(r"(\.dataset-card__title\[[^}]*;)word-break:break-all"),
        "@overflow-wrap:anywhere",
        1,
    ),
    Mend(".css", re.compile(r"@import url\(https://fonts\.googleapis\.com/[^)]*\);"), "", 1),
]


def install(app: FastAPI) -> None:
    folder = Path(next(r for r in app.routes if getattr(r, "name", "") == "static").app.directory)
    mend(folder)
    api_v1.router.routes[:] = [
        r for r in api_v1.router.routes if getattr(r, "path", "") not in ("/docs", "/docs/oauth2-redirect", "/redoc")
    ]

    @app.middleware("http")
    async def add_policy(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        return response


def mend(folder: Path) -> None:
    """Apply `MENDS` to the files below `folder`; RuntimeError where one does not fit."""
    for packed in [*folder.rglob("*.br"), *folder.rglob("*.gz")]:  # copies of the unmended files that nothing asks for
        packed.unlink()
    for suffix in sorted({m.suffix for m in MENDS}):
        texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob(f"*{suffix}")}
        for m in (m for m in MENDS if m.suffix == suffix):
            changed = [path for path, content in texts.items() if m.old.search(content)]
            if len(changed) != m.files:
                raise RuntimeError(
                    f"Argilla's user interface changed: {m.old.pattern!r} is in {len(changed)} {suffix} files, not in {m.files}"
                )
            for path in changed:
                texts[path] = m.old.sub(m.replacement, texts[path])
                path.write_text(texts[path], encoding="utf-8")
