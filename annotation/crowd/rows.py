"""Beliefs as rows: preferences, binary labels and edits."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.ids import ID_BYTES, content_id
from align.types import SCHEMAS, BinaryLabel, Edit, Preference, binary_label_id, preference_id
from annotation.crowd.arrays import Array, ranked, whole
from annotation.crowd.beliefs import Beliefs
from annotation.crowd.evidence import ASIDE, TRAIN, Evidence
from annotation.crowd.gaussian import labels
from annotation.crowd.reading import JudgementArrays, TaskArrays

MOST = 16
"""Of so many answers to one prompt that were judged one by one, all pairs are made; of more, each is paired with the
one half the ranks away."""
CHUNK = 1 << 15
"""Rows of the output in one chunk, so that texts stay far below the 2 GiB that a chunk can hold."""


@dataclass(frozen=True)
class Pairs:
    """P pairs of nodes with what is believed of them, the first not always being the better one."""

    first: Array
    second: Array
    factor: Array
    """−1 where the two were judged one by one."""
    better: Array
    margin: Array
    information: Array

    def take(self, rows: Array) -> "Pairs":
        return Pairs(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))


def pairs_of(evidence: Evidence, beliefs: Beliefs) -> Pairs:
    """All pairs that can be trained on: those that were compared, and answers to one prompt judged one by one."""
    factor = np.flatnonzero((evidence.second >= 0) & (evidence.kind[evidence.first] == TRAIN))
    first, second = evidence.first[factor], evidence.second[factor]
    a, b = _judged_alone(evidence, beliefs, first, second)
    gap = beliefs.level[a, 0] - beliefs.level[b, 0]
    variance = beliefs.level[a, 1] + beliefs.level[b, 1]
    single = np.full(len(evidence.kind), -1)
    alone = np.flatnonzero(evidence.second < 0)
    single[evidence.first[alone]] = alone
    return Pairs(
        first=np.r_[first, a],
        second=np.r_[second, b],
        factor=np.r_[factor, np.full(len(a), -1)],
        better=np.r_[beliefs.better[factor], beliefs.difference(gap, variance)],
        margin=np.r_[beliefs.margin[factor], gap],
        information=np.r_[
            beliefs.information[factor], 0.5 * (beliefs.information[single[a]] + beliefs.information[single[b]])
        ],
    )


def _judged_alone(evidence: Evidence, beliefs: Beliefs, first: Array, second: Array) -> tuple[Array, Array]:
    """Pairs of training nodes of one prompt that were judged one by one and not compared with each other."""
    alone = evidence.first[evidence.second < 0]
    alone = alone[(evidence.kind[alone] == TRAIN) & np.isfinite(beliefs.level[alone, 0])]
    order = alone[np.lexsort((alone, beliefs.level[alone, 0], evidence.prompt[alone]))]
    prompt = evidence.prompt[order]
    count = np.bincount(prompt, minlength=int(prompt.max(initial=0)) + 1)[prompt] if len(order) else order
    place = np.arange(len(order)) - np.searchsorted(prompt, prompt)
    found = [(order[:0], order[:0])]
    for gap in range(1, MOST):
        at = np.flatnonzero((count <= MOST) & (place + gap < count))
        found.append((order[at], order[at + gap]))
    half = count // 2
    at = np.flatnonzero((count > MOST) & (place < half))
    found.append((order[at], order[at + half[at]]))
    a, b = (np.concatenate(side) for side in zip(*found, strict=True))
    a, b = np.minimum(a, b), np.maximum(a, b)
    width = np.int64(len(evidence.kind) + 1)
    new = ~np.isin(a * width + b, first * width + second)
    return a[new], b[new]


def independent(pairs: Pairs, nodes: int) -> Array:
    """How much of each pair is news of its own: P pairs between K candidates are worth at most K − 1."""
    label = labels(pairs.first, pairs.second, nodes)
    home = label[pairs.first]
    touched = np.zeros(nodes, bool)
    touched[pairs.first] = touched[pairs.second] = True
    size = np.bincount(label[touched], minlength=nodes)
    return np.minimum(1.0, (size[home] - 1) / np.bincount(home, minlength=nodes)[home]) if len(home) else np.empty(0)


class Source:
    """Where texts, ids and messages of the output come from, without a copy before the rows are known."""

    def __init__(self, asked: TaskArrays, said: JudgementArrays, evidence: Evidence) -> None:
        self.asked, self.said, self.evidence = asked, said, evidence
        ids, texts = whole(asked.table["candidates"]).flatten(), whole(asked.table["texts"]).flatten()
        self.ids = _with(ids, [e.id for e in evidence.edits]).take(pa.array(evidence.text)).cast(pa.string())
        self.texts = _with(texts, [e.text for e in evidence.edits])
        self.messages = whole(asked.table["messages"])
        self.rounds = whole(asked.table["round"])
        self.single = np.full(len(evidence.kind), -1)
        """The factor that is about each node alone."""
        alone = np.flatnonzero(evidence.second < 0)
        self.single[evidence.first[alone]] = alone
        names = whole(said.table["id"])
        self.judgements, self.sorted = ranked(names)
        """Each judgement's place among the sorted ids, and these."""

    def id(self, nodes: Array) -> pa.Array:
        return self.ids.take(pa.array(nodes))

    def text(self, nodes: Array) -> pa.Array:
        return self.texts.take(pa.array(self.evidence.text[nodes]))

    def prompt(self, nodes: Array) -> pa.Array:
        return self.asked.prompts.take(pa.array(self.evidence.prompt[nodes])).cast(pa.string())

    def task_of(self, pairs: Pairs) -> Array:
        """The task that each row takes messages and round from."""
        return self.evidence.task[np.where(pairs.factor >= 0, pairs.factor, self.single[pairs.first])]

    def of_factor(self, factors: list[Array]) -> tuple[Array, Array]:
        """Judgements (places among the sorted ids) on row i, which is about factors[0][i], factors[1][i] …: [n] rows
        and judgements, sorted by row and id, each once."""
        votes = self.evidence.votes
        starts, ends = _bounds(votes.factor, len(self.evidence.first))
        rows, found = [], []
        for column in factors:
            known = np.flatnonzero(column >= 0)
            size = (ends - starts)[column[known]]
            rows.append(np.repeat(known, size))
            at = np.repeat(starts[column[known]] - (np.cumsum(size) - size), size) + np.arange(size.sum())
            found.append(self.judgements[votes.judgement[at]])
        row, judgement = np.concatenate(rows), np.concatenate(found)
        key = np.unique(row * np.int64(max(1, len(self.sorted))) + judgement)
        return np.divmod(key, max(1, len(self.sorted)))


def _bounds(ordered: Array, count: int) -> tuple[Array, Array]:
    return np.searchsorted(ordered, np.arange(count)), np.searchsorted(ordered, np.arange(count), side="right")


def _with(values: pa.Array, more: list[str]) -> pa.Array:
    return pa.concat_arrays([values.cast(pa.large_string()), pa.array(more, pa.large_string())]) if more else values


def preferences(source: Source, pairs: Pairs, weight: Array) -> pa.Table:
    """Rows of `Preference`, sorted by id; `pairs` are those that are kept."""
    swap = pairs.better < 0.5
    chosen = np.where(swap, pairs.second, pairs.first)
    rejected = np.where(swap, pairs.first, pairs.second)
    prompt, chosen_id, rejected_id = source.prompt(chosen), source.id(chosen), source.id(rejected)
    ids = _ids("preference", preference_id, prompt, chosen_id, rejected_id)
    task = source.task_of(pairs)
    columns = {
        "id": ids,
        "prompt_id": prompt,
        "chosen_id": chosen_id,
        "rejected_id": rejected_id,
        "target": pa.array(np.where(swap, 1 - pairs.better, pairs.better)),
        "weight": pa.array(weight),
        "margin": pa.array(np.where(swap, -pairs.margin, pairs.margin)),
        "round": source.rounds.take(pa.array(task)),
    }
    factors = [
        pairs.factor,
        np.where(pairs.factor < 0, source.single[pairs.first], -1),
        np.where(pairs.factor < 0, source.single[pairs.second], -1),
    ]
    texts = {"chosen": chosen, "rejected": rejected}
    return _table(Preference, source, columns, texts, task, source.of_factor(factors))


def binary(source: Source, beliefs: Beliefs) -> pa.Table:
    """Rows of `BinaryLabel`, sorted by id."""
    evidence = source.evidence
    factor = np.flatnonzero((evidence.second < 0) & np.isin(evidence.kind[evidence.first], (TRAIN, ASIDE)))
    nodes = evidence.first[factor]
    prompt, candidate = source.prompt(nodes), source.id(nodes)
    columns = {
        "id": _ids("thumb", binary_label_id, prompt, candidate),
        "prompt_id": prompt,
        "candidate_id": candidate,
        "target": pa.array(beliefs.better[factor]),
        "weight": pa.array(beliefs.information[factor]),
        "round": source.rounds.take(pa.array(evidence.task[factor])),
    }
    return _table(BinaryLabel, source, columns, {"text": nodes}, evidence.task[factor], source.of_factor([factor]))


def edits(source: Source) -> pa.Table:
    """Rows of `Edit`, sorted by id; few enough for Python."""
    rows = []
    asked, said = source.asked, source.said
    for edit in source.evidence.edits:
        judgement = said.table["id"][edit.judgement].as_py()
        rows.append(
            {
                "id": content_id(["edit", judgement]),
                "prompt_id": asked.prompts[int(asked.prompt[edit.task])].as_py(),
                "messages": source.messages[edit.task].as_py(),
                "text": edit.text,
                "annotator": said.names[int(said.annotator[edit.judgement])].as_py(),
                "judgement": judgement,
                "round": source.rounds[edit.task].as_py(),
            }
        )
    return pa.Table.from_pylist(sorted(rows, key=lambda r: r["id"]), schema=SCHEMAS[Edit])


def _ids(kind: str, make: Callable[..., str], *parts: pa.Array) -> pa.Array:
    """`make` of each row. Where no part needs escaping, as in content ids, the canonical JSON is joined by Arrow."""
    plain = all(pc.all(pc.match_substring_regex(part, r"^[A-Za-z0-9_:.-]*$"), min_count=0).as_py() for part in parts)
    if not plain:
        return pa.array([make(*row) for row in zip(*(p.to_pylist() for p in parts), strict=True)], pa.string())
    text = pc.binary_join_element_wise(f'["{kind}","', pc.binary_join_element_wise(*parts, '","'), '"]', "")
    found = [blake2b(t.encode(), digest_size=ID_BYTES).hexdigest() for t in text.to_pylist()]
    return pa.array(found, pa.string())


def _table(
    kind: type,
    source: Source,
    columns: dict[str, pa.Array],
    texts: dict[str, Array],
    task: Array,
    said: tuple[Array, Array],
) -> pa.Table:
    """The columns with texts, messages and judgements, sorted by id. Texts are taken a chunk at a time."""
    schema = SCHEMAS[kind]
    order = pc.sort_indices(columns["id"]).to_numpy()
    count = len(order)
    starts, ends = _bounds(said[0], count)
    tables = []
    for low in range(0, count, CHUNK):
        rows = order[low : low + CHUNK]
        part = {name: column.take(pa.array(rows)) for name, column in columns.items()}
        part |= {name: source.text(nodes[rows]) for name, nodes in texts.items()}
        part["messages"] = source.messages.take(pa.array(task[rows]))
        part["judgements"] = _lists(source, said[1], starts[rows], ends[rows])
        arrays = [part[f.name].cast(f.type) for f in schema]
        tables.append(pa.Table.from_arrays(arrays, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _lists(source: Source, judgements: Array, starts: Array, ends: Array) -> pa.Array:
    size = ends - starts
    offsets = np.r_[0, np.cumsum(size)]
    at = np.repeat(starts - offsets[:-1], size) + np.arange(offsets[-1])
    values = source.sorted.take(pa.array(judgements[at])).cast(pa.string())
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
