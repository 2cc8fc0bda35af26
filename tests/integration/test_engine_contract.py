"""The search engine against a plain-Python oracle, on the real server, with the filters that the UI and the SDK send."""

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.server_fixtures import ArgillaServer, add_annotator, add_records, make_dataset

WORDS = ["broken", "late", "lamp", "Kettle", "blue", "refund", "sorry", "naïve", "order", "über"]
TAGS = ("new", "Old", "zoë", "x y")
COLOURS = ["red", "green", "blue", 'it\'s "odd"']
PLAIN = str.maketrans("ïü", "iu")


@dataclass
class Row:
    """What the oracle knows of one record."""

    id: str
    number: int
    fields: dict[str, str]
    metadata: dict[str, Any]
    answers: dict[str, dict[str, Any]]
    suggestion: dict[str, Any] | None
    tagged: dict[str, Any] | None
    """The suggestion for the question with several tags."""
    vector: list[float] | None
    inserted_at: str = ""


@dataclass
class World:
    server: ArgillaServer
    dataset: str
    rows: list[Row]
    users: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def world(either_server: ArgillaServer) -> World:
    rng = random.Random(7)
    dataset = make_dataset(
        either_server,
        "oracle",
        overlap=2,
        fields=("text", "reply"),
        metadata={"colour": "terms", "n": "integer", "x": "float"},
        tags=TAGS,
        vector=3,
    )
    users = {name: add_annotator(either_server, f"oracle-{name}", "oracle") for name in ("ada", "bob")}
    question = {q["name"]: q["id"] for q in either_server.call("GET", f"/datasets/{dataset}/questions")["items"]}
    rows = [_row(rng, number) for number in range(160)]
    for row, record_id in zip(
        rows, add_records(either_server, dataset, [_as_record(row, question, users) for row in rows]), strict=True
    ):
        row.id = record_id
    found = either_server.call("GET", f"/datasets/{dataset}/records", limit=1000)["items"]
    times = {record["id"]: record["inserted_at"] for record in found}
    for row in rows:
        row.inserted_at = times[row.id]
    return World(either_server, dataset, rows, users)


def _row(rng: random.Random, number: int) -> Row:
    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 6))) + rng.choice(["", ".", "!", " <b>", '"'])

    metadata: dict[str, Any] = {}
    if rng.random() < 0.8:
        metadata["colour"] = rng.sample(COLOURS, 2) if rng.random() < 0.3 else rng.choice(COLOURS)
    if rng.random() < 0.8:
        metadata["n"] = rng.randint(-3, 3)
    if rng.random() < 0.8:
        metadata["x"] = round(rng.uniform(-1, 1), 2)
    fields = {"text": sentence()} | ({"reply": sentence()} if rng.random() < 0.7 else {})
    answers = {}
    for name in ("ada", "bob"):
        if rng.random() < 0.5:
            status = rng.choice(["submitted", "submitted", "submitted", "discarded", "draft"])
            answers[name] = {"status": status, "choice": rng.choice(["a", "b", "tie"]), "stars": rng.randint(1, 5)}
            answers[name]["tags"] = rng.sample(TAGS, rng.randint(1, 3))
    suggestion = (
        {
            "value": rng.choice(["a", "b"]),
            "score": round(rng.random(), 3),
            "agent": rng.choice(["m1", "m2"]),
            "type": rng.choice(["model", "human"]),
        }
        if rng.random() < 0.6
        else None
    )
    some = rng.sample(TAGS, 2)
    tagged = {"value": some, "score": [round(rng.random(), 3) for _ in some]} if rng.random() < 0.5 else None
    vector = [round(rng.uniform(-1, 1), 3) for _ in range(3)] if rng.random() < 0.8 else None
    return Row("", number, fields, metadata, answers, suggestion, tagged, vector)


def _as_record(row: Row, question: dict[str, str], users: dict[str, tuple[str, str]]) -> dict[str, Any]:
    responses = [
        {
            "user_id": users[name][0],
            "status": a["status"],
            "values": {q: {"value": a[q]} for q in ("choice", "stars", "tags")},
        }
        for name, a in row.answers.items()
    ]
    suggestions = [
        {"question_id": question[name], **given}
        for name, given in (("choice", row.suggestion), ("tags", row.tagged))
        if given
    ]
    return {
        "fields": row.fields,
        "metadata": row.metadata,
        "external_id": f"e{row.number}",
        "responses": responses,
        "suggestions": suggestions,
    } | ({"vectors": {"v": row.vector}} if row.vector else {})


def _search(
    world: World,
    *,
    user: str | None = None,
    filters: list[Any] | None = None,
    q: str | None = None,
    field: str | None = None,
    **more: Any,
) -> tuple[list[str], int]:
    body: dict[str, Any] = {
        k: v for k, v in {"sort": more.pop("sort", None), "filters": {"and": filters} if filters else None}.items() if v
    }
    if q is not None:
        body["query"] = {"text": {"q": q} | ({"field": field} if field else {})}
    path, key = ("/me", world.users[user][1]) if user else ("", None)
    found = world.server.call(
        "POST", f"{path}/datasets/{world.dataset}/records/search", body, key=key, limit=more.pop("limit", 1000), **more
    )
    return [item["record"]["id"] for item in found["items"]], found["total"]


# the oracle ---------------------------------------------------------------------------------------------------------


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _answers(row: Row, user: str | None) -> list[dict[str, Any]]:
    return [a for name, a in row.answers.items() if user in (None, name)]


def _values(row: Row, scope: dict[str, Any], user: str | None) -> list[Any]:
    match scope:
        case {"entity": "metadata", "metadata_property": name}:
            return _as_list(row.metadata.get(name))
        case {"entity": "suggestion", "question": question, "property": name}:
            given = row.suggestion if question == "choice" else row.tagged
            return _as_list(given.get(name)) if given else []
        case {"entity": "response", "question": name}:
            return [value for a in _answers(row, user) for value in _as_list(a[name])]
        case {"entity": "response", "property": "status"}:
            return [a["status"] for a in _answers(row, user)]
        case {"entity": "record", "property": "id"}:
            return [row.id]
        case {"entity": "record", "property": "inserted_at"}:
            return [row.inserted_at]
        case {"entity": "record", "property": "external_id"}:
            return [f"e{row.number}"]
        case {"entity": "record", "property": "status"}:
            return ["completed" if sum(a["status"] == "submitted" for a in row.answers.values()) >= 2 else "pending"]
    raise AssertionError(scope)


def _keeps(row: Row, given: dict[str, Any], user: str | None) -> bool:
    scope = given["scope"]
    if scope.get("property") == "status" and scope["entity"] == "response":
        answers = _answers(row, user)
        return ("pending" in given["values"] and not answers) or any(a["status"] in given["values"] for a in answers)
    values = _values(row, scope, user)
    if given["type"] == "terms":
        return any(str(v) in map(str, given["values"]) for v in values)
    if scope["entity"] == "record":
        return all((given.get("ge") or "") <= v <= (given.get("le") or "9") for v in values)
    low, high = given.get("ge", float("-inf")), given.get("le", float("inf"))
    return any(low <= v <= high for v in values if not isinstance(v, str))


def _tokens(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower().translate(PLAIN)).split()


def _says(row: Row, wanted: str, field: str | None) -> bool:
    prefix, words = wanted.endswith("*"), _tokens(wanted)
    for name, text in row.fields.items():
        have = _tokens(text) if field in (None, name) else []
        for i in range(len(have) - len(words) + 1):
            part = have[i : i + len(words)]
            if part == words or (prefix and part[:-1] == words[:-1] and part[-1].startswith(words[-1])):
                return True
    return False


def _filters(rng: random.Random, rows: list[Row]) -> list[dict[str, Any]]:
    def one() -> dict[str, Any]:
        low = rng.randint(-3, 2)
        times = sorted(rng.choice(rows).inserted_at for _ in range(2))
        return rng.choice(
            [
                {
                    "type": "terms",
                    "scope": {"entity": "metadata", "metadata_property": "colour"},
                    "values": rng.sample(COLOURS, 2),
                },
                {"type": "terms", "scope": {"entity": "metadata", "metadata_property": "n"}, "values": ["1", "-2"]},
                {"type": "range", "scope": {"entity": "metadata", "metadata_property": "n"}, "ge": low, "le": low + 2},
                {"type": "range", "scope": {"entity": "metadata", "metadata_property": "x"}, "ge": -0.25},
                {
                    "type": "terms",
                    "scope": {"entity": "response", "property": "status"},
                    "values": rng.sample(["pending", "draft", "submitted", "discarded"], rng.randint(1, 3)),
                },
                {"type": "terms", "scope": {"entity": "response", "question": "choice"}, "values": ["a", "tie"]},
                {"type": "range", "scope": {"entity": "response", "question": "stars"}, "ge": 2, "le": 4},
                {
                    "type": "terms",
                    "scope": {"entity": "suggestion", "question": "choice", "property": "value"},
                    "values": ["b"],
                },
                {
                    "type": "range",
                    "scope": {"entity": "suggestion", "question": "choice", "property": "score"},
                    "le": 0.5,
                },
                {
                    "type": "terms",
                    "scope": {"entity": "suggestion", "question": "choice", "property": "agent"},
                    "values": ["m1"],
                },
                {"type": "terms", "scope": {"entity": "response", "question": "tags"}, "values": rng.sample(TAGS, 2)},
                {"type": "terms", "scope": {"entity": "response", "question": "stars"}, "values": ["1", "5"]},
                {"type": "range", "scope": {"entity": "response", "question": "choice"}, "ge": 0},
                {
                    "type": "terms",
                    "scope": {"entity": "suggestion", "question": "choice", "property": "type"},
                    "values": ["human"],
                },
                {
                    "type": "terms",
                    "scope": {"entity": "suggestion", "question": "tags", "property": "value"},
                    "values": rng.sample(TAGS, 1),
                },
                {
                    "type": "range",
                    "scope": {"entity": "suggestion", "question": "tags", "property": "score"},
                    "ge": 0.2,
                    "le": 0.4,
                },
                {"type": "terms", "scope": {"entity": "record", "property": "status"}, "values": ["completed"]},
                {
                    "type": "terms",
                    "scope": {"entity": "record", "property": "id"},
                    "values": [*(row.id for row in rng.sample(rows, 60)), "no id"],
                },
                {
                    "type": "range",
                    "scope": {"entity": "record", "property": "inserted_at"},
                    "ge": times[0],
                    "le": times[1],
                },
                {
                    "type": "terms",
                    "scope": {"entity": "record", "property": "external_id"},
                    "values": [f"e{rng.randrange(160)}" for _ in range(40)],
                },
            ]
        )

    return [one() for _ in range(rng.randint(1, 3))]


@pytest.mark.parametrize("user", [None, "ada"])
def test_filters_agree_with_the_oracle(world: World, user: str | None) -> None:
    rng, sizes = random.Random(11), []
    for _ in range(50):
        filters = _filters(rng, world.rows)
        found, total = _search(world, user=user, filters=filters)
        expected = {row.id for row in world.rows if all(_keeps(row, f, user) for f in filters)}
        assert set(found) == expected and total == len(found) == len(expected), filters
        sizes.append(total)
    assert sum(0 < n < 160 for n in sizes) > 25, "the filters were worth asking"


def test_words_agree_with_the_oracle(world: World) -> None:
    rng, sizes = random.Random(13), []
    for _ in range(50):
        wanted = [
            rng.choice([w := rng.choice(WORDS), w.upper(), w[:3] + "*", f'"{w} {rng.choice(WORDS)}"'])
            for _ in range(rng.randint(1, 2))
        ]
        unwanted = [rng.choice(WORDS) for _ in range(rng.randint(0, 1))]
        field = rng.choice([None, "text", "reply"])
        found, total = _search(world, q=" ".join([*wanted, *(f"-{w}" for w in unwanted)]), field=field)
        expected = {
            r.id
            for r in world.rows
            if all(_says(r, w, field) for w in wanted) and not any(_says(r, w, field) for w in unwanted)
        }
        assert set(found) == expected and total == len(expected), (wanted, unwanted, field)
        sizes.append(total)
    assert sum(0 < n < 160 for n in sizes) > 25


@pytest.mark.parametrize(
    ("q", "says"),
    [
        ("broken | lamp", lambda r: _says(r, "broken", None) or _says(r, "lamp", None)),
        ("-broken", lambda r: not _says(r, "broken", None)),
        ("(late) +lamp", lambda r: _says(r, "late", None) and _says(r, "lamp", None)),
        ('"', lambda r: False),
        ("!!! --", lambda r: False),
        ("AND OR NEAR(", lambda r: False),
        ('lamp" OR 1=1 --', lambda r: False),
        ("body:lamp", lambda r: False),
    ],
)
def test_the_search_language_is_not_that_of_the_database(world: World, q: str, says: Callable[[Row], bool]) -> None:
    found, _ = _search(world, q=q)
    assert set(found) == {row.id for row in world.rows if says(row)}


SORTS: list[dict[str, Any]] = [
    {"entity": "metadata", "metadata_property": "colour"},
    {"entity": "metadata", "metadata_property": "n"},
    {"entity": "metadata", "metadata_property": "x"},
    *({"entity": "suggestion", "question": "choice", "property": name} for name in ("value", "score", "agent", "type")),
    *({"entity": "suggestion", "question": "tags", "property": name} for name in ("value", "score")),
    *({"entity": "response", "question": name} for name in ("choice", "stars", "tags")),
    {"entity": "response", "property": "status"},
    *({"entity": "record", "property": name} for name in ("id", "external_id", "status", "inserted_at")),
]


def _sorted(rows: list[Row], orders: list[dict[str, Any]], user: str | None) -> list[str]:
    """Missing last; of several values the least or the greatest; of several answers the mean, or the first word."""
    found = list(rows)
    for order in reversed(orders):
        scope, down = order["scope"], order["order"] == "desc"
        values = {row.id: _values(row, scope, user) for row in found}
        if scope["entity"] == "response" and scope.get("question") == "stars":
            keys = {i: sum(v) / len(v) for i, v in values.items() if v}
        else:
            most = max if down and scope["entity"] != "response" else min
            keys = {i: most(v) for i, v in values.items() if v}
        have = sorted((row for row in found if row.id in keys), key=lambda row: keys[row.id], reverse=down)
        found = have + [row for row in found if row.id not in keys]
    return [row.id for row in found]


@pytest.mark.parametrize("user", [None, "bob"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("scope", SORTS, ids=lambda scope: "-".join(scope.values()))
def test_sorts_agree_with_the_oracle(world: World, scope: dict[str, Any], direction: str, user: str | None) -> None:
    orders = [{"scope": scope, "order": direction}]
    assert _search(world, user=user, sort=orders)[0] == _sorted(world.rows, orders, user)


def _query(rng: random.Random) -> tuple[str, str | None, Callable[[Row], bool]]:
    """What is typed, in which field, and which records it means."""
    word, other, field = rng.choice(WORDS), rng.choice(WORDS), rng.choice([None, None, "text", "reply"])
    return rng.choice(
        [
            (word, field, lambda r: _says(r, word, field)),
            (f"{word[:2]}*", field, lambda r: _says(r, word[:2] + "*", field)),
            (f"{word} -{other}", field, lambda r: _says(r, word, field) and not _says(r, other, field)),
            (f"{word} | {other}", field, lambda r: _says(r, word, field) or _says(r, other, field)),
        ]
    )


@pytest.mark.parametrize("user", [None, "ada"])
def test_whole_requests_agree_with_the_oracle(world: World, user: str | None) -> None:
    """Words, filters, several sorts and a page, all at once."""
    rng, sizes = random.Random(17), []
    for _ in range(60):
        filters = _filters(rng, world.rows)[: rng.randint(0, 2)]
        typed, field, says = _query(rng)
        if rng.random() < 0.4:
            typed, field, says = None, None, lambda row: True
        orders = [{"scope": scope, "order": rng.choice(["asc", "desc"])} for scope in rng.sample(SORTS, 2)]
        kept = [row for row in world.rows if says(row) and all(_keeps(row, f, user) for f in filters)]
        at, limit = rng.randint(0, 30), rng.randint(1, 40)
        found, total = _search(
            world, user=user, filters=filters, q=typed, field=field, sort=orders, offset=at, limit=limit
        )
        assert found == _sorted(kept, orders, user)[at : at + limit] and total == len(kept)
        sizes.append(total)
    assert sum(n > 5 for n in sizes) > 20, "the requests were worth asking"


@pytest.mark.parametrize("user", [None, "ada"])
def test_similarity_agrees_with_the_oracle(world: World, user: str | None) -> None:
    rng = random.Random(19)
    path, key = ("/me", world.users[user][1]) if user else ("", None)
    for _ in range(25):
        like = rng.choice([row for row in world.rows if row.vector])
        by_record, least, at, limit = rng.random() < 0.5, rng.random() < 0.5, rng.randint(0, 5), rng.randint(1, 50)
        value = [round(rng.uniform(-1, 1), 3) for _ in range(3)]
        vector: dict[str, Any] = {"name": "v", "order": "least_similar" if least else "most_similar"}
        vector |= {"record_id": like.id} if by_record else {"value": value}
        filters = _filters(rng, world.rows)[: rng.randint(0, 1)]
        typed, field, says = _query(rng)
        words = rng.random() < 0.3
        body: dict[str, Any] = {"query": {"vector": vector}}
        if words:
            body["query"]["text"] = {"q": typed} | ({"field": field} if field else {})
        if filters:
            body["filters"] = {"and": filters}
        found = world.server.call(
            "POST", f"{path}/datasets/{world.dataset}/records/search", body, key=key, limit=limit, offset=at
        )
        origin = like.vector if by_record else value
        expected = [
            (row.id, (1 + _cosine(origin, row.vector) * (-1 if least else 1)) / 2)
            for row in world.rows
            if row.vector
            and not (by_record and row is like)
            and (says(row) or not words)
            and all(_keeps(row, f, user) for f in filters)
        ]
        expected = sorted(expected, key=lambda pair: -pair[1])[: at + limit]
        assert [item["record"]["id"] for item in found["items"]] == [i for i, _ in expected[at:]]
        scores = [item["query_score"] for item in found["items"]]
        assert scores == pytest.approx([s for _, s in expected[at:]], abs=1e-6)
        assert found["total"] == (len(expected) if at < at + limit else 0)


def _cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def test_pages_are_slices_of_the_whole(world: World) -> None:
    q = [{"type": "range", "scope": {"entity": "metadata", "metadata_property": "x"}, "ge": -0.5}]
    whole, total = _search(world, user="ada", filters=q)
    for offset in (0, 7, total - 1, total, total + 50):
        page, said = _search(world, user="ada", filters=q, offset=offset, limit=7)
        assert page == whole[offset : offset + 7] and said == total


def test_each_person_has_a_queue_of_their_own_that_does_not_change(world: World) -> None:
    ada, bob, added = (_search(world, user="ada")[0], _search(world, user="bob")[0], [row.id for row in world.rows])
    assert ada == _search(world, user="ada")[0]
    assert sorted(ada) == sorted(bob) == sorted(added)
    assert sum(a == b for a, b in zip(ada, bob, strict=True)) < 20 and ada != added
    assert _search(world)[0] == added, "without a person, as they were added"


def test_dates_filter_and_nonsense_is_refused(world: World) -> None:
    def at(low: str | float) -> int:
        return _search(
            world, filters=[{"type": "range", "scope": {"entity": "record", "property": "inserted_at"}, "ge": low}]
        )[1]

    assert (
        at("2020-01-01T00:00:00") == at("2020-01-01T00:00:00Z") == at("2020-01-01T00:00:00+05:00") == at(1.5e12) == 160
    )
    assert at("2999-01-01") == 0
    headers = {"X-Argilla-Api-Key": world.server.api_key}
    body = {
        "filters": {"and": [{"type": "range", "scope": {"entity": "record", "property": "inserted_at"}, "ge": "soon"}]}
    }
    answer = world.server.client.post(
        f"{world.server.url}/api/v1/datasets/{world.dataset}/records/search", json=body, headers=headers
    )
    assert answer.status_code == 422


def test_metrics_and_progress_count_right(world: World) -> None:
    properties = {
        p["name"]: p["id"]
        for p in world.server.call("GET", f"/me/datasets/{world.dataset}/metadata-properties")["items"]
    }
    colours = world.server.call("GET", f"/metadata-properties/{properties['colour']}/metrics")
    expected = {c: sum(c in _as_list(r.metadata.get("colour")) for r in world.rows) for c in COLOURS}
    assert {v["term"]: v["count"] for v in colours["values"]} == expected and colours["total"] == sum(expected.values())
    n = world.server.call("GET", f"/metadata-properties/{properties['n']}/metrics")
    assert (n["type"], n["min"], n["max"]) == ("integer", -3, 3)
    given = [r.metadata["x"] for r in world.rows if "x" in r.metadata]
    x = world.server.call("GET", f"/metadata-properties/{properties['x']}/metrics")
    assert (x["type"], x["min"], x["max"]) == ("float", min(given), max(given))
    options = world.server.call("GET", f"/datasets/{world.dataset}/records/search/suggestions/options")["items"]
    assert {o["question"]["name"]: sorted(o["agents"]) for o in options} == {
        "choice": ["m1", "m2"],
        "stars": [],
        "tags": [],
    }
    people = world.server.call("GET", f"/datasets/{world.dataset}/users/progress")["users"]
    for person in people:
        name = person["username"].removeprefix("oracle-")
        counts = Counter(
            (_values(r, {"entity": "record", "property": "status"}, None)[0], r.answers[name]["status"])
            for r in world.rows
            if name in r.answers
        )
        said = {(a, b): k for a in ("completed", "pending") for b, k in (person.get(a) or {}).items() if k}
        assert said == counts
    assert len(people) == 2
    completed = sum(_values(r, {"entity": "record", "property": "status"}, None) == ["completed"] for r in world.rows)
    progress = world.server.call("GET", f"/datasets/{world.dataset}/progress")
    assert (progress["total"], progress["completed"], progress["pending"]) == (
        160,
        completed,
        160 - completed,
    ) and completed > 5
    mine = world.server.call("GET", f"/me/datasets/{world.dataset}/metrics", key=world.users["ada"][1])["responses"]
    statuses = [r.answers["ada"]["status"] for r in world.rows if "ada" in r.answers]
    assert {k: mine[k] for k in ("submitted", "draft", "discarded", "pending")} == {
        k: statuses.count(k) for k in ("submitted", "draft", "discarded")
    } | {"pending": 160 - len(statuses)}


def test_priority_comes_first_in_the_queue(either_server: ArgillaServer) -> None:
    dataset = make_dataset(either_server, "queue")
    _, key = add_annotator(either_server, "queuer", "queue")
    priorities = [None, 1, 3, None, 2.5, 3, "high"]
    ids = add_records(
        either_server,
        dataset,
        [
            {"fields": {"text": str(i)}, "metadata": {} if p is None else {"priority": p}}
            for i, p in enumerate(priorities)
        ],
    )
    found = [
        i["record"]["id"]
        for i in either_server.call("POST", f"/me/datasets/{dataset}/records/search", {}, key=key)["items"]
    ]
    assert (
        set(found[:2]) == {ids[2], ids[5]}
        and found[2:4] == [ids[4], ids[1]]
        and set(found[4:]) == {ids[0], ids[3], ids[6]}
    )


def test_words_follow_updates_and_deletes(either_server: ArgillaServer) -> None:
    dataset = make_dataset(either_server, "following", fields=("text", "chat", "custom"))
    chat = [{"role": "user", "content": "where is my parcel"}, {"role": "assistant", "content": "coming tomorrow"}]
    first, second = add_records(
        either_server,
        dataset,
        [
            {"fields": {"text": "alpha", "chat": chat, "custom": {"a": ["beta", {"b": "gamma"}], "n": 3}}},
            {"fields": {"text": "alpha \u0000 nul \U0001f600 zwölf"}},
        ],
    )

    def found(q: str, field: str | None = None) -> list[str]:
        body = {"query": {"text": {"q": q} | ({"field": field} if field else {})}}
        return [
            i["record"]["id"] for i in either_server.call("POST", f"/datasets/{dataset}/records/search", body)["items"]
        ]

    assert set(found("alpha")) == {first, second} and found("zwolf") == [second]
    assert found("gamma") == found("parcel tomorrow") == found("parcel", "chat") == [first]
    assert found("alpha parcel gamma") == [first], "words may stand in different fields"
    assert found("parcel", "text") == [] and found("assistant") == []
    either_server.call(
        "PUT",
        f"/datasets/{dataset}/records/bulk",
        {"items": [{"id": first, "fields": {"text": "delta", "chat": chat}}]},
    )
    assert found("alpha") == [second] and found("delta") == [first] and found("gamma") == []
    either_server.call("PATCH", f"/records/{second}", {"fields": {"text": "epsilon"}})
    assert found("alpha") == [] and found("epsilon") == [second]
    either_server.call("DELETE", f"/records/{second}")
    assert found("epsilon") == []
    assert _indexed(either_server, [first, second]) == 2
    either_server.call("DELETE", f"/datasets/{dataset}")
    assert _indexed(either_server, [first, second]) == 0


def _indexed(on: ArgillaServer, record_ids: list[str]) -> int:
    """How many texts of these records are indexed; the whole index is checked for consistency on the way."""
    assert (
        on.sql("SELECT count(*) FROM align_text t LEFT JOIN records r ON r.id = t.record_id WHERE r.id IS NULL") == "0"
    )
    if on.database is None:
        on.sql("INSERT INTO align_fts (align_fts) VALUES ('integrity-check')")
        assert on.sql("SELECT (SELECT count(*) FROM align_text) = (SELECT count(*) FROM align_fts)") == "1"
    marks = ", ".join(f"'{on.key(i)}'" for i in record_ids)
    return int(on.sql(f"SELECT count(*) FROM align_text WHERE record_id IN ({marks})"))


def test_similar_records_are_ranked_by_cosine(either_server: ArgillaServer) -> None:
    dataset = make_dataset(either_server, "similar")
    either_server.call("POST", f"/datasets/{dataset}/vectors-settings", {"name": "v", "title": "v", "dimensions": 2})
    vectors = [[1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [-3.0, 0.0]]
    ids = add_records(
        either_server,
        dataset,
        [{"fields": {"text": f"word{i}"}, "vectors": {"v": v}} for i, v in enumerate(vectors)]
        + [{"fields": {"text": "none"}}],
    )

    def ranked(**query: Any) -> list[tuple[int, float]]:
        found = either_server.call(
            "POST", f"/datasets/{dataset}/records/search", {"query": {"vector": {"name": "v", **query}}}
        )["items"]
        return [(ids.index(i["record"]["id"]), round(i["query_score"], 3)) for i in found]

    assert ranked(value=[1.0, 0.0]) == [(0, 1.0), (1, 0.998), (2, 0.5), (3, 0.0)]
    assert ranked(record_id=ids[3], order="least_similar") == [(0, 1.0), (1, 0.998), (2, 0.5)]
    either_server.call("PATCH", f"/records/{ids[0]}", {"vectors": {"v": [-1.0, 0.0]}})
    after = ranked(value=[1.0, 0.0])
    assert after[0] == (1, 0.998) and set(after[2:]) == {(0, 0.0), (3, 0.0)}, "a changed vector counts at once"
    assert after == ranked(value=[1.0, 0.0]), "and what is equal stays in order"
