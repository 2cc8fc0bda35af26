"""The tokens that an answer was sampled as, and where a training may take them for its text.

A text can be written in several tokens, and a model seldom samples the ones that encoding gives. What is trained on
other tokens is another thing than what was sampled: its log-probability under the policy is not that of the draw. So
ids are kept beside the candidates (`TOKENS`), go with the candidates that people were asked about, and stand in
training for every text of which they say the same, character for character, in the place where the chat template puts
it.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from align.ids import content_id
from align.store import read_table, write_table
from align.text import text_behind
from align.turns import control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_FILE = "tokens.parquet"
TOKENS = pa.schema(
    [("candidate", pa.string()), ("tokenizer", pa.string()), ("token_ids", pa.list_(pa.int32()))],
)
"""One row a candidate: all tokens that were sampled, the stop token too where there was one, and `tokenizer_id` of the
tokenizer whose tokens they are. A stage's table may have more columns."""


def tokenizer_id(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Of what each id stands for. How a text is cut into tokens is not in it: sampled tokens are cut already."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return content_id(["tokenizer", sorted((int(id), token) for token, id in vocabulary.items())])


def pass_tokens_on(source: Path, folder: Path, candidates: Iterable[pa.Array | pa.ChunkedArray]) -> None:
    """Write into `folder` what the folder `source` knows of `candidates`; nothing where it has no tokens of them, as in
    runs begun by a version that kept none."""
    if not (source / TOKENS_FILE).is_file():
        return
    table = read_table(source / TOKENS_FILE, columns=TOKENS.names)
    wanted = [pc.unique(ids.cast(pa.string())) for ids in candidates]
    kept = table.filter(pc.is_in(table["candidate"], value_set=pa.concat_arrays(wanted)))
    if kept.num_rows:
        write_table(folder / TOKENS_FILE, kept)


def read_tokens(folders: Iterable[Path]) -> pa.Table | None:
    """The tokens that lie in `folders`; None where there are none."""
    files = [folder / TOKENS_FILE for folder in folders if (folder / TOKENS_FILE).is_file()]
    return pa.concat_tables([read_table(file, columns=TOKENS.names) for file in files]) if files else None


@dataclass(slots=True)
class Sampled:
    """The sampled ids of candidates, in Arrow until one is asked for; and how many answers were trained on as they were
    sampled (`kept`) and on the encoding of their text (`encoded`)."""

    places: dict[str, int]
    token_ids: Any
    kept: int = 0
    encoded: int = 0

    def ids_of(self, candidate: str) -> list[int] | None:
        place = self.places.get(candidate)
        return None if place is None else self.token_ids[place].values.to_numpy().tolist()  # type: ignore[no-any-return]

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Inside the block rows are encoded that are measured on, and not trained on."""
        before = self.kept, self.encoded
        yield
        self.kept, self.encoded = before

    def count(self, *as_sampled: bool) -> None:
        self.kept += sum(as_sampled)
        self.encoded += len(as_sampled) - sum(as_sampled)

    def say(self) -> None:
        """To the log, where tokens were given."""
        if self.places:
            what = f"of {self.kept + self.encoded} answers {self.kept} are trained on as they were sampled"
            print(f"{what}, {self.encoded} by the encoding of their text", file=sys.stderr)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """For a training's summary."""
        return {"answers": {"as_sampled": self.kept, "encoded": self.encoded}}


def sampled_by(tokenizer: "PreTrainedTokenizerBase", tokens: pa.Table | None) -> Sampled:
    """Of a table with the columns of `TOKENS`, the rows of this tokenizer."""
    if tokens is None or tokens.num_rows == 0:
        return Sampled({}, None)
    own = tokens.filter(pc.equal(tokens["tokenizer"], tokenizer_id(tokenizer)))
    places = {candidate: place for place, candidate in enumerate(own["candidate"].to_pylist())}
    return Sampled(places, own["token_ids"])


def as_sampled(
    tokenizer: "PreTrainedTokenizerBase", written: Sequence[int], drawn: Sequence[int] | None
) -> list[int] | None:
    """`drawn`, where these tokens say what `written` says, the encoding of an answer's text with the token that ends
    it; else None. A drawn answer that the limit cut gets that token behind it.

    None too where control tokens differ: those of `written` are all that the template puts there.
    """
    if not drawn:
        return None
    ids = list(drawn)
    if ids[-1] != written[-1]:
        ids.append(written[-1])
    if ids == list(written):
        return ids
    control = set(control_tokens(tokenizer).values())
    if [i for i in ids if i in control] != [i for i in written if i in control]:
        return None
    return ids if text_behind(tokenizer, ids) == text_behind(tokenizer, written) else None
