"""What people said as votes, in one form for every kind of task.

A *vote* is one annotator's word about one *factor*, and a factor is a pair of *nodes* (which is better?) or a single
node (is it good?). A node is a candidate of a prompt; gold tasks have nodes of their own.

- A pair is one vote. "Both bad" is a tie, and a bad binary label for each answer. An answer flagged as unsafe or wrong,
  where
  the other is not, loses another half vote; it also gets a bad binary label.
- A ranking is broken into pairs: what comes out of m remaining answers beats each of the rest with the weight of 2/m
  votes, and equals tie. That is position-p breaking, consistent for Plackett–Luce (Khetan & Oh 2016, "Data-driven Rank
  Breaking for Efficient Rank Aggregation"), and 2/m gives it Plackett–Luce's information where the answers are equally
  good: four answers in order are worth 3.8 votes and not six.
- A binary label is one vote on a single node. A rating of mean m is four votes, (m − 1) of them good and (5 − m) bad:
  a binomial, of which the model takes each annotator's offset and scale.
- An edit beats the answer that was preferred (both answers of a tie), whatever the position.
- One annotator has one vote about one factor: said n times, in repeats or other tasks, each time counts 1/n.
"""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.errors import DataError
from align.types import OUTCOMES, candidate_id
from annotation.crowd.arrays import Array, numbers, owners, place_in, runs, sizes, whole
from annotation.crowd.reading import KINDS, JudgementArrays, TaskArrays

PAIR, RANK, SINGLE, RATING = range(len(KINDS))
FAMILIES = 3
COMPARE, BINARY, SCORE = range(FAMILIES)
"""Families of votes: each annotator has parameters of their own in each."""
TRAIN, GOLD, ASIDE = range(3)
"""Classes of nodes. ASIDE: bad binary labels that were said beside a comparison."""
FLAG_WEIGHT = 0.5
"""What a flag on one answer of a pair is worth beside the vote itself."""


@dataclass(frozen=True)
class Votes:
    """V votes, ordered by factor and annotator."""

    factor: Array
    annotator: Array
    family: Array
    outcome: Array
    """From −½ (the second, or bad) to ½ (the first, or good); 0 for a tie."""
    tie: Array
    position: Array
    """How far left the first node stands of the second: 1 in a pair, less between neighbours in a ranking, else 0."""
    weight: Array
    times: Array
    """How often this annotator spoke in this way about this factor; `weight` is divided by it."""
    strength: Array
    """0 where none was given."""
    judgement: Array
    """Row of `JudgementArrays.table`."""
    main: Array
    """Whether this is the judgement's own word; not so for flags, edits and binary labels beside a comparison."""


@dataclass(frozen=True)
class Evidence:
    """Votes, the F factors that they are about and the N nodes between these."""

    votes: Votes
    first: Array
    second: Array
    """[F], nodes; −1 where the factor is a single node."""
    known: Array
    """[F], of gold factors what is true: 1 first or good, −1 second or bad, 2 equal; else 0."""
    task: Array
    """[F], row of the first task, by id, that asked about it."""
    kind: Array
    """[N], TRAIN, GOLD or ASIDE."""
    prompt: Array
    """[N], index of `TaskArrays.prompts`."""
    text: Array
    """[N], index into all texts of all tasks, followed by the edits."""
    edits: list["Edited"]
    annotators: int
    sides: bool = True
    """Whether sides were drawn, so that they tell of position bias."""


@dataclass(frozen=True)
class Edited:
    """An answer that an annotator wrote: `judgement` is a row of `JudgementArrays.table`, `task` one of
    `TaskArrays.table`."""

    id: str
    text: str
    judgement: int
    task: int


@dataclass(frozen=True)
class _Block:
    """Votes before they have factors; nodes are keys (class, prompt, candidate) as one number."""

    first: Array
    second: Array
    task: Array
    annotator: Array
    judgement: Array
    family: int
    outcome: Array
    tie: Array
    position: Array
    weight: Array
    strength: Array
    main: bool


def shared(evidence: Evidence) -> Array:
    """Which votes something can be held against, bool [V]: their factor was judged twice, or its truth is known."""
    votes = evidence.votes
    twice = np.bincount(votes.factor[votes.main], minlength=len(evidence.first)) > 1
    return (twice | (evidence.known != 0))[votes.factor]


def by_others(evidence: Evidence) -> Array:
    """Which of these were judged by somebody else too, or have a known truth, bool [V]: a repeat says nothing of how
    strict somebody is."""
    votes, count = evidence.votes, len(evidence.first)
    low, high = np.full(count, evidence.annotators), np.full(count, -1)
    np.minimum.at(low, votes.factor[votes.main], votes.annotator[votes.main])
    np.maximum.at(high, votes.factor[votes.main], votes.annotator[votes.main])
    return ((low < high) | (evidence.known != 0))[votes.factor]


def gather(asked: TaskArrays, said: JudgementArrays) -> tuple[Evidence, list[tuple[str, str]]]:
    """All votes, and the edits that are left out as (judgement id, reason)."""
    edits, refused = _edits(asked, said)
    keys = _Keys(asked, len(edits))
    blocks = [_pairs(asked, said, keys), *_ranks(asked, said, keys)]
    blocks += [_singles(asked, said, keys), _ratings(asked, said, keys), _edit_votes(asked, said, keys, edits)]
    single = np.unique(np.concatenate([b.first for b in blocks if b.family != COMPARE]))
    blocks += [_pair_flags(asked, said, keys), _asides(asked, said, keys, single), _single_flags(asked, said, keys)]
    return _assemble(asked, said, keys, [b for b in blocks if len(b.first)], edits), refused


class _Keys:
    """Nodes as numbers that sort by class, prompt and candidate id; candidates of edits come after the others."""

    def __init__(self, asked: TaskArrays, edits: int) -> None:
        self.asked, self.width = asked, len(asked.candidates) + edits
        self.kind = np.where(asked.gold, GOLD, TRAIN)

    def of(self, task: Array, slot: Array | int, kind: Array | int | None = None) -> Array:
        """Keys of the `slot`-th canonical candidates of tasks."""
        kind = self.kind[task] if kind is None else kind
        return self.key(kind, self.asked.prompt[task], self.asked.candidate[self.asked.first[task] + slot])

    def key(self, kind: Array | int, prompt: Array, candidate: Array) -> Array:
        return (kind * np.int64(len(self.asked.prompts)) + prompt) * self.width + candidate


def _pairs(asked: TaskArrays, said: JudgementArrays, keys: _Keys) -> _Block:
    rows = np.flatnonzero(asked.kind[said.task] == PAIR)
    task, chosen = said.task[rows], said.outcome[rows]
    left = np.where(asked.place[task, 0] < asked.place[task, 1], 1.0, -1.0)
    outcome = np.array([0.5, -0.5, 0.0, 0.0])[chosen]
    strength = np.where(outcome != 0, said.strength[rows], 0)
    return _block(
        said, rows, keys.of(task, 0), keys.of(task, 1), COMPARE, outcome, left, tie=outcome == 0, strength=strength
    )


def _ranks(asked: TaskArrays, said: JudgementArrays, keys: _Keys) -> list[_Block]:
    rows = np.flatnonzero(asked.kind[said.task] == RANK)
    rank = _rankings(asked, said, rows)
    task = said.task[rows]
    count = asked.count[task]
    blocks = []
    for i in range(4):
        for j in range(i + 1, 4):
            both = np.flatnonzero(j < count)
            above, below, at = rank[both, i], rank[both, j], task[both]
            better = np.minimum(above, below)
            remaining = (rank[both] >= better[:, None]).sum(1)
            position = (asked.place[at, j] - asked.place[at, i]) / (count[both] - 1)
            outcome = 0.5 * np.sign(below - above)
            first, second = keys.of(at, i), keys.of(at, j)
            weight = 2 / remaining
            blocks.append(
                _block(said, rows[both], first, second, COMPARE, outcome, position, tie=outcome == 0, weight=weight)
            )
    return blocks


def _rankings(asked: TaskArrays, said: JudgementArrays, rows: Array) -> Array:
    """[len(rows), 4]; 0 where there is no candidate."""
    lists = whole(said.table["ranking"]).take(pa.array(rows))
    rank = np.zeros((len(rows), 4), np.int64)
    wrong = np.flatnonzero(sizes(lists) != asked.count[said.task[rows]])
    if len(wrong) == 0:
        row = owners(lists)
        rank[row, np.arange(len(row)) - (np.cumsum(sizes(lists)) - sizes(lists))[row]] = numbers(lists.flatten())
        wrong = np.flatnonzero(((rank < 1) & (np.arange(4) < asked.count[said.task[rows]][:, None])).any(1))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(
            f"the ranking is {lists[at].as_py()}",
            where=f"judgement {said.table['id'][int(rows[at])].as_py()}",
            hint=f"it has a rank from 1 up for each of {asked.count[said.task[rows[at]]]} candidates",
        )
    return rank


def _singles(asked: TaskArrays, said: JudgementArrays, keys: _Keys) -> _Block:
    rows = np.flatnonzero(asked.kind[said.task] == SINGLE)
    outcome = np.array([0.5, -0.5])[np.minimum(said.outcome[rows], 1)]
    return _block(said, rows, keys.of(said.task[rows], 0), None, BINARY, outcome)


def _ratings(asked: TaskArrays, said: JudgementArrays, keys: _Keys) -> _Block:
    rows = np.flatnonzero(asked.kind[said.task] == RATING)
    mean = mean_ratings(said.table, rows)
    return _block(said, rows, keys.of(said.task[rows], 0), None, SCORE, (mean - 3) / 4, weight=np.full(len(rows), 4.0))


def mean_ratings(table: pa.Table, rows: Array) -> Array:
    """The mean over criteria of the scores in `rows`, from 1 to 5; DataError where there is none, or out of range."""
    lists = whole(table["ratings"]).take(pa.array(rows))
    score = numbers(pc.struct_field(lists.flatten(), "score")) if len(rows) else np.empty(0)
    count = sizes(lists)
    row = owners(lists)
    bad = np.zeros(len(rows), bool)
    bad[row[(score < 1) | (score > 5)]] = True
    bad |= count == 0
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"the ratings are {lists[at].as_py()}",
            where=f"judgement {table['id'][int(rows[at])].as_py()}",
            hint="there is at least one criterion, each with a score from 1 to 5",
        )
    return np.bincount(row, score, len(rows)) / np.maximum(count, 1)


def _pair_flags(asked: TaskArrays, said: JudgementArrays, keys: _Keys) -> _Block:
    """Half a vote against an answer of a pair that was flagged while the other was not."""
    rows = np.flatnonzero((asked.kind[said.task] == PAIR) & (said.bad[:, 0] != said.bad[:, 1]))
    task, outcome = said.task[rows], np.where(said.bad[rows, 0], -0.5, 0.5)
    weight = np.full(len(rows), FLAG_WEIGHT)
    return _block(said, rows, keys.of(task, 0), keys.of(task, 1), COMPARE, outcome, weight=weight, main=False)


def _asides(asked: TaskArrays, said: JudgementArrays, keys: _Keys, single: Array) -> _Block:
    """Bad binary labels beside comparisons, on the node that has binary labels of its own where there is one."""
    compared = np.isin(asked.kind[said.task], (PAIR, RANK)) & asked.trained[said.task]
    both = (asked.kind[said.task] == PAIR) & (said.outcome == OUTCOMES["pair"].index("both_bad"))
    bad = (said.bad | (both[:, None] & (np.arange(4) < 2))) & compared[:, None]
    rows, slot = np.nonzero(bad & (np.arange(4) < asked.count[said.task][:, None]))
    direct = keys.of(said.task[rows], slot, TRAIN)
    key = np.where(np.isin(direct, single), direct, keys.of(said.task[rows], slot, ASIDE))
    return _block(said, rows, key, None, BINARY, np.full(len(rows), -0.5), main=False)


def _single_flags(asked: TaskArrays, said: JudgementArrays, keys: _Keys) -> _Block:
    rows = np.flatnonzero(np.isin(asked.kind[said.task], (SINGLE, RATING)) & said.bad[:, 0])
    weight = np.full(len(rows), FLAG_WEIGHT)
    key = keys.of(said.task[rows], 0)
    return _block(said, rows, key, None, BINARY, np.full(len(rows), -0.5), weight=weight, main=False)


def _edits(asked: TaskArrays, said: JudgementArrays) -> tuple[list[Edited], list[tuple[str, str]]]:
    """Corrected answers, few enough for Python; one that says nothing new is refused with the reason."""
    given = whole(said.table["edit"])
    edits, refused = [], []
    for row in np.flatnonzero(pc.is_valid(given).to_numpy(zero_copy_only=False)).tolist():
        task = int(said.task[row])
        name, text = said.table["id"][row].as_py(), given[row].as_py()
        originals = {t.strip() for t in asked.table["texts"][task].as_py()}
        if not asked.trained[task]:
            refused.append((name, "gold tasks measure annotators and are not trained on"))
        elif not text.strip():
            refused.append((name, "it is empty"))
        elif text.strip() in originals:
            refused.append((name, "it is the same as an answer that it corrects"))
        else:
            prompt = asked.prompts[int(asked.prompt[task])].as_py()
            edits.append(Edited(candidate_id(prompt, text, f"edit:{name}"), text, row, task))
    return edits, refused


def _edit_votes(asked: TaskArrays, said: JudgementArrays, keys: _Keys, edits: list[Edited]) -> _Block:
    beaten = [(n, slot) for n, edit in enumerate(edits) for slot in _corrected(asked, said, edit)]
    which = np.array([n for n, _ in beaten], np.int64)
    slot = np.array([s for _, s in beaten], np.int64)
    rows = np.array([e.judgement for e in edits], np.int64)[which]
    task = said.task[rows]
    edited = keys.key(TRAIN, asked.prompt[task], len(asked.candidates) + which)
    return _block(said, rows, edited, keys.of(task, slot), COMPARE, np.full(len(rows), 0.5), main=False)


def _corrected(asked: TaskArrays, said: JudgementArrays, edit: Edited) -> list[int]:
    """Which canonical candidates an edit beats: the preferred one, or all that nothing is preferred to."""
    kind, outcome = asked.kind[edit.task], int(said.outcome[edit.judgement])
    if kind == PAIR:
        return [outcome] if outcome < 2 else [0, 1]
    if kind == RANK:
        ranks = said.table["ranking"][edit.judgement].as_py()
        return [slot for slot, rank in enumerate(ranks) if rank == min(ranks)]
    return [0]


def _block(
    said: JudgementArrays,
    rows: Array,
    first: Array,
    second: Array | None,
    family: int,
    outcome: Array,
    position: Array | None = None,
    *,
    tie: Array | None = None,
    weight: Array | None = None,
    strength: Array | None = None,
    main: bool = True,
) -> _Block:
    """Votes of judgements `rows`, the first node being the lesser key of a pair."""
    n = len(rows)
    second = np.full(n, -1) if second is None else second
    position = np.zeros(n) if position is None else position
    swap = (second >= 0) & (second < first)
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    return _Block(
        first=first,
        second=second,
        task=said.task[rows],
        annotator=said.annotator[rows],
        judgement=rows,
        family=family,
        outcome=np.where(swap, -outcome, outcome),
        tie=np.zeros(n, bool) if tie is None else tie,
        position=np.where(swap, -position, position),
        weight=np.ones(n) if weight is None else weight,
        strength=np.zeros(n, np.int8) if strength is None else strength,
        main=main,
    )


def _assemble(
    asked: TaskArrays, said: JudgementArrays, keys: _Keys, blocks: list[_Block], edits: list[Edited]
) -> Evidence:
    def joined(name: str) -> Array:
        parts = [getattr(b, name) for b in blocks]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def spread(name: str) -> Array:
        parts = [np.full(len(b.first), getattr(b, name)) for b in blocks]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    first, second, task = joined("first"), joined("second"), joined("task")
    family, main, annotator = spread("family"), spread("main").astype(bool), joined("annotator")
    nodes = np.unique(np.r_[first, second[second >= 0]])
    low = np.searchsorted(nodes, first)
    high = np.where(second >= 0, np.searchsorted(nodes, second), -1)
    pairs, factor = np.unique(low * np.int64(len(nodes) + 1) + high + 1, return_inverse=True)
    # All that a vote says is in the order, so that sums do not depend on that of the rows.
    says = [joined(name) for name in ("weight", "strength", "position", "tie", "outcome")]
    order = np.lexsort((*says, main, family, annotator, factor))
    times = _times(factor, annotator, family, main)
    columns = {"factor": factor, "annotator": annotator, "family": family, "main": main}
    columns |= {"weight": joined("weight") / times, "times": times}
    columns |= {name: joined(name) for name in ("outcome", "tie", "position", "strength", "judgement")}
    votes = Votes(**{f.name: columns[f.name][order] for f in fields(Votes)})
    kind, rest = np.divmod(nodes, max(1, keys.width * len(asked.prompts)))
    known, asking = _known(asked, factor, task, len(pairs))
    return Evidence(
        votes=votes,
        first=pairs // (len(nodes) + 1),
        second=pairs % (len(nodes) + 1) - 1,
        known=known,
        task=asking,
        kind=kind,
        prompt=rest // max(1, keys.width),
        text=_texts(asked, keys, rest, len(edits)),
        edits=edits,
        annotators=len(said.names),
    )


def _times(factor: Array, annotator: Array, family: Array, main: Array) -> Array:
    """How often this annotator speaks in this way about this factor."""
    people = int(annotator.max(initial=0)) + 1
    key = ((factor * people + annotator) * 3 + family) * 2 + main
    _, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
    return count[inverse] if len(key) else np.empty(0)


def _texts(asked: TaskArrays, keys: _Keys, rest: Array, edits: int) -> Array:
    """For each node where its text is: of several tasks that show it, all texts are the same."""
    shown = np.repeat(asked.prompt, asked.count) * np.int64(max(1, keys.width)) + asked.candidate
    known, where = np.unique(shown, return_index=True)
    at = np.minimum(np.searchsorted(known, rest), max(0, len(known) - 1))
    found = where[at] if len(known) else np.empty(0, np.int64)
    candidate = rest % max(1, keys.width)
    edited = candidate >= len(asked.candidates)
    return np.where(edited, len(asked.candidate) + candidate - len(asked.candidates), found)


def _known(asked: TaskArrays, factor: Array, task: Array, count: int) -> tuple[Array, Array]:
    """What is true of each gold factor, and the task of least id that asks about each factor."""
    rank = np.empty(len(asked.ids), np.int64)
    rank[pc.sort_indices(asked.ids).to_numpy()] = np.arange(len(asked.ids))
    order = np.lexsort((rank[task], factor))
    asking = task[order[runs(factor[order])]]
    known = np.zeros(count, np.int8)
    gold = np.flatnonzero(asked.gold[asking])
    expected = whole(asked.table["expected"]).take(pa.array(asking[gold]))
    place = place_in(expected, ["a", "good", "b", "bad", "tie", "both_bad"])
    truth = np.array([1, 1, -1, -1, 2, 2, 0])[place]
    swapped = (asked.count[asking[gold]] > 1) & (
        asked.candidate[asked.first[asking[gold]]]
        > asked.candidate[asked.first[asking[gold]] + np.minimum(1, asked.count[asking[gold]] - 1)]
    )
    known[gold] = np.where(swapped & (np.abs(truth) == 1), -truth, truth)
    return known, asking
