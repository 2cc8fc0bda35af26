"""Texts that want to be more than text: what is given, and what of it a person sees."""

import re

EVIL = "https://evil.test"

# name → (text, a part of what is seen of it)
HOSTILE: dict[str, tuple[str, str]] = {
    # out of the script that Argilla puts records into
    "script": ("</script><script>alert(1)</script>",) * 2,
    "script in other letters": ("</ScRiPt ><sCrIpT>alert(1)//",) * 2,
    "script in a comment": ("<!--<script>alert(1)--></script>",) * 2,
    "cdata": ("<![CDATA[</script><script>alert(1)</script>]]>",) * 2,
    "end of a string": ("'; alert(1); //\"; alert(1); //`; alert(1); //",) * 2,
    "backslashes": ("\\u003cscript\\u003ealert(1)\\x3c/script\\x3e \\\\'\\\"",) * 2,
    "separators": ("one\u2028alert(1)\u2029three", "three"),
    # what String.replace and templates take for instructions
    "replacement": ("$& $' $` $$ $1 $<x>",) * 2,
    "placeholder": ("#TEMPLATE# #RECORD_OBJECT#",) * 2,
    "template": ("{{constructor.constructor('alert(1)')()}} ${alert(1)} <%= alert(1) %> [[alert(1)]]",) * 2,
    "our own marks": ("@page.js@ @markdown.js@",) * 2,
    # elements that run, load or navigate
    "image": ("<img src=x onerror=alert(1)>",) * 2,
    "svg": ("<svg/onload=alert(1)><animate onbegin=alert(1) attributeName=x dur=1s>",) * 2,
    "svg with a script": ("<svg><script href=data:,alert(1) /><use href=//evil.test/x.svg#a></svg>",) * 2,
    "mathml": ("<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math>",) * 2,
    "attribute": ('"><a href=//evil.test onmouseover=alert(1)>x</a>',) * 2,
    "focus": ("<input autofocus onfocus=alert(1)><details open ontoggle=alert(1)>",) * 2,
    "media": ("<video src=//evil.test/v onerror=alert(1)><audio autoplay src=//evil.test/a>",) * 2,
    "frame": ("<iframe src=https://evil.test srcdoc='<script>alert(1)</script>'></iframe><object data=//evil.test>",) * 2,
    "embed": ("<embed src=//evil.test><applet code=x><portal src=//evil.test>",) * 2,
    "base and refresh": ("<base href=//evil.test><meta http-equiv=refresh content=0;url=//evil.test>",) * 2,
    "link": ("<link rel=stylesheet href=//evil.test/x.css><link rel=prefetch href=//evil.test>",) * 2,
    "form": ("<form action=//evil.test><button formaction=javascript:alert(1)>Submit</button></form>",) * 2,
    "style": ("<style>@import 'https://evil.test/x.css'; * { display: none }</style>",) * 2,
    "style attribute": ("<p style='background:url(//evil.test);position:fixed;inset:0'>cover</p>",) * 2,
    "names of the page": ("<a id=task name=record><form id=frame><input name=parent></form>",) * 2,
    "template element": ("<template shadowrootmode=open><slot onslotchange=alert(1)></template>",) * 2,
    # addresses
    "javascript link": ("[here](javascript:alert)", "here (javascript:alert)"),
    "entities in a link": ("[here](&#106;avascript&colon;alert)", "here (&#106;avascript&colon;alert)"),
    "remote image": (f"![pixel]({EVIL}/p.png)", f"pixel ({EVIL}/p.png)"),
    "data address": ("data:text/html,<script>alert(1)</script> [x](data:text/html;base64,PHNjcmlwdD4=)", "data:text/html"),
    "link in a link": (f'[a]({EVIL} "title") <{EVIL}> [[b]](x)', f"<{EVIL}>"),
    # markdown around markup
    "markup in markup": ("**<b onclick=alert(1)>** `</code><script>alert(1)</script>`", "</code><script>alert(1)"),
    "language of code": ("```\"><img src=x onerror=alert(1)>\ncode\n```", "code"),
    "table of markup": ("|a|<img src=x onerror=alert(1)>|\n|-|-|\n|<script>alert(1)</script>|2|", "<script>alert(1)"),
    "quote of markup": ("> <script>alert(1)</script>\n> > <img src=x onerror=alert(1)>", "<script>alert(1)"),
    # names that objects have already
    "prototype": ('{"__proto__": {"alignDifferences": true}} __proto__ constructor hasOwnProperty toString',) * 2,
    # characters
    "controls": ("NUL \0 escape \x1b bell \a del \x7f", "NUL ␀ escape ␛ bell ␇"),
    "surrogate": ("half \ud83d of one, \udc00 the other", "half"),
    "surrogates turned around": ("\udc00\ud800 x", "x"),
    "overrides": ("\u202e\u2066\u202dgnissim\u202c done", "‹U+202E›‹U+2066›‹U+202D›gnissim‹U+202C› done"),
    "mixed directions": ("مرحبا \u202e <b>hello</b> שלום 123", "مرحبا"),
    "homoglyphs": ("<ѕcript>аlert(1)</ѕcript> ＜script＞",) * 2,
    "stacked marks": ("Z" + "\u0336\u0301\u0489" * 60 + "algo", "‹172 more marks›algo"),
    "invisible": ("zero\u200b\u200c\u200d\ufeff\u2060\u00adwidth \U000e0041", "zero‹U+200B›‹U+200C›‹U+200D›‹U+FEFF›‹U+2060›‹U+00AD›width ‹U+E0041›"),
    "joined": ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0915\u094d\u200d\u0937 👨\u200d👩\u200d👧 ❤\ufe0f",) * 2,
    "nonsense planes": ("\ufffe\uffff\U0010ffff \ufdd0 end", "end"),
    # size, and what is slow to lay out
    "marks": ("e" + "\u0301" * 200_000, "e" + "\u0301" * 8 + "‹199992 more marks›"),
    "turns": ("\u202e\u2066" * 100_000 + "end", "‹U+202E›‹U+2066›" * 4 + "‹199992 more›"),
    "words without spaces": ("\u0e33" * 200_000, "\u0e33" * 100 + "‹199900 more›"),
    "no width": ("a\u200b" * 100_000, "a‹U+200B›" * 100),
    "long word": ("x" * 1_000_000, "x" * 1000),
    "brackets": ("[" * 40_000 + "**" * 20_000 + "`" * 20_000, "[" * 1000),
    "emphasis": ("*a* **b** ~~c~~ `d` " * 5_000, "a b c d a b c d"),
    "pipes": ("|" * 20_000 + "\n" + "|-" * 10_000, "|" * 1000),
    "quotes in quotes": (">" * 40_000 + " deep", "deep"),
    "rules": ("- - - " * 10_000 + "x\n" + "-*_" * 10_000, "x"),
    "paragraphs": ("a\n\n" * 5_000, "a"),
}  # fmt: skip

HUGE = {name for name, (text, _) in HOSTILE.items() if len(text) > 10_000}


def storable(text: str) -> str:
    """Without what UTF-8 has no form for: what a person could type or paste."""
    return re.sub("[\0\ud800-\udfff]", "?", text)
