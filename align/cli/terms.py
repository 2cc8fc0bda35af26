"""The terms that the help of `align` and of `align annotate` explains."""

import textwrap

TERMS = {
    "recipe": "One YAML file that says what a run does.",
    "run": "A recipe carried out in rounds, and the folder that holds its files.",
    "policy": "The model that is trained.",
    "parent": "The policy that a round starts from.",
    "candidate": "An answer that a model gave to a prompt.",
    "task": "One question to annotators about the answers to one prompt.",
    "labelling session": "The tasks that people are asked at one time, with their answers. A round of a run has one;"
    " `align annotate push` makes one in a folder.",
    "judgement": "What one annotator said about one task.",
    "journal": "The append-only file of all judgements.",
    "snapshot": "The judgements frozen when labelling closes.",
    "binary label": "Good or bad for one answer, as in KTO.",
    "control item": "A task whose right answer is known; it shows how far an annotator can be trusted.",
}
OF_LABELLING = ("labelling session", "task", "judgement", "journal", "snapshot", "binary label", "control item")


def terms(*names: str) -> str:
    """The terms as a table for an epilog, which click leaves as it is."""
    wide = max(map(len, names)) + 2
    lines = []
    for name in names:
        first, *others = textwrap.wrap(TERMS[name], 74 - wide)
        lines += [f"  {name:<{wide}}{first}", *(" " * (wide + 2) + line for line in others)]
    return "\n".join(["\b", "Terms:", *lines])
