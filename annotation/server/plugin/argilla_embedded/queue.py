"""The labelling queue: which record a person meets next. The page asks for no order, so the order is ours.

1. *Repeats that are due.* A record with `repeat` above 0 in its metadata shows again what another record of the same
   `item` shows. It is due once the person has submitted that one and answered at least `APART` other records since.
2. *Records that are not repeats*: those with a higher `priority` in the metadata first (where it is given); then those
   with the fewest submitted answers, so that answers are spread before overlaps fill up; then in a pseudo-random order
   of the person's own, so that two people at once seldom meet at one record and none is always met first.
3. *When nothing else is left*: repeats that are not due yet, and last those whose first showing the person never
answered.

Of several records of one `item` that are not repeats (the same answers in another order) a person gets one.

Nothing here depends on a model's score, unless a `priority` was made from one. Both pieces of SQL take {user} and
{dataset}, two bound keys.
"""

from argilla_embedded.dialect import dialect

APART = 20
"""How many other records lie between two showings of one item to one person, while there are others."""


def _is_repeat(record: str) -> str:
    return f"(coalesce({dialect.number_of(record, 'repeat')}, 0) > 0)"


def _same_item(other: str) -> str:
    """FROM … WHERE … of the records that show the same as `r`."""
    return (
        f"records {other} WHERE {other}.dataset_id = {{dataset}} AND {other}.id <> r.id"
        f" AND {dialect.text_of(other, 'item')} = {dialect.text_of('r', 'item')} AND NOT {_is_repeat(other)}"
    )


_LATEST = f"""(SELECT a.inserted_at FROM responses a JOIN records o ON o.id = a.record_id
    WHERE a.user_id = {{{{user}}}} AND o.dataset_id = {{{{dataset}}}} AND {dialect.ANSWER_STATUS} IN ('submitted', 'discarded')
    ORDER BY a.inserted_at DESC LIMIT 1 OFFSET {{offset}})"""

_FIRST_SHOWN = f"""(SELECT max(a.inserted_at) FROM {_same_item("o").replace("WHERE", "JOIN responses a ON a.record_id = o.id WHERE", 1)}
    AND a.user_id = {{user}} AND {dialect.ANSWER_STATUS} = 'submitted')"""

_RANK = f"""CASE WHEN NOT {_is_repeat("r")} THEN 1
    WHEN {_FIRST_SHOWN} < {_LATEST.format(offset=APART - 1)} THEN 0
    WHEN {_FIRST_SHOWN} IS NOT NULL THEN 2 ELSE 3 END"""

_ANSWERS = f"(SELECT count(*) FROM responses a WHERE a.record_id = r.id AND {dialect.ANSWER_STATUS} = 'submitted')"

ORDER = ", ".join(
    [
        _RANK,
        f"{dialect.number_of('r', 'priority')} DESC NULLS LAST",
        _ANSWERS,
        dialect.shuffle("r", "{user}"),
        "r.id",
    ]
)

ONE_OF_AN_ITEM = f"""({_is_repeat("r")} OR NOT EXISTS (SELECT 1 FROM {_same_item("o")} AND (
    EXISTS (SELECT 1 FROM responses a WHERE a.record_id = o.id AND a.user_id = {{user}})
    OR (o.status = 'pending' AND {dialect.shuffle("o", "{user}")} < {dialect.shuffle("r", "{user}")}))))"""

LEFT = f"""
    SELECT max(CASE WHEN {dialect.ANSWER_STATUS} = 'draft' THEN 1 ELSE 0 END) AS begun
    FROM records r LEFT JOIN responses a ON a.record_id = r.id AND a.user_id = :user
    WHERE r.dataset_id = :dataset
    GROUP BY CASE WHEN {_is_repeat("r")} THEN NULL ELSE {dialect.text_of("r", "item")} END,
        CASE WHEN {_is_repeat("r")} OR {dialect.text_of("r", "item")} IS NULL THEN r.id END
    HAVING sum(CASE WHEN {dialect.ANSWER_STATUS} IN ('submitted', 'discarded') THEN 1 ELSE 0 END) = 0
        AND sum(CASE WHEN r.status = 'pending' THEN 1 ELSE 0 END) > 0"""
"""Of a dataset's records, a row for each that is left for a person, and whether a draft of it is `begun`: of several of
one item one, and none where that is answered; a draft of what others completed since is no longer left. By groups,
since a look for each record at the others of its item would take a search's time each time that a page is shown."""
