"""The recipe: what a run is asked to do. Each field is documented once, beneath itself.

Unknown keys are refused with the nearest right one; relative paths start at the recipe's folder.
"""

from datetime import date as day
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from align.config.base import Decoding, Section
from align.config.paths import File, Folder, Function, ModelPath, Strategy, Template
from align.config.rollouts import Rollouts
from align.config.trainer import nearest, trl_tables
from align.config.training import BestOfN, Dpo, Grpo, Kto, Ppo, Rewards, Rloo, Sft, Training


class Source(Section):
    path: ModelPath
    """A folder (write `./`, `../`, `/` or `~` first, or let it exist) or a Hub id of a causal language model."""
    revision: str | None = None
    """The Hub revision; the default branch where none is named. Folders have none."""

    @model_validator(mode="after")
    def _revision_of_a_hub_id(self) -> Self:
        if self.revision is not None and self.path.startswith("/"):
            raise ValueError(f"`revision` belongs to a Hub id, and {self.path} is a folder; remove it")
        return self


class Templating(Section):
    """What a model's chat template is, and what is written into it; each checkpoint is published with it."""

    chat_template: Template | None = None
    """Where the tokenizer has no chat template: `plain`, `chatml` or the path of a Jinja file."""
    replace_chat_template: bool = False
    """Use `chat_template` in the place of the tokenizer's own."""
    chat_template_kwargs: dict[str, Any] = {}
    """What the chat template reads beside the messages, as `{enable_thinking: false}`; written into each checkpoint's template."""
    date: str | None = None
    """For a chat template that writes today's date: the date, as 2026-01-31, that it writes on every day. The day on which the run began where not given."""

    @field_validator("date")
    @classmethod
    def _a_day(cls, value: str | None) -> str | None:
        try:
            return None if value is None else day.fromisoformat(value).isoformat()
        except ValueError as error:
            raise ValueError(f"must be a date such as 2026-01-31, found {value!r}") from error

    @model_validator(mode="after")
    def _replaced_by_another(self) -> Self:
        if self.replace_chat_template and self.chat_template is None:
            raise ValueError("`replace_chat_template` replaces nothing where no `chat_template` is named")
        return self


class Model(Templating, Source):
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights' type in training and in generation; use bfloat16 on a GPU."""
    hide_thinking: list[Literal["annotators", "loss"]] = []
    """What an answer's thoughts (`<think>…</think>`) are hidden from: `annotators`, who then see and compare what answers say
    and nothing else, on the page and in what is exported as shown to them; `loss`, so that training learns what an answer
    says, given its thoughts, and a reward model reads what it says alone (not `ppo` and `rloo`, which weigh whole answers).
    Empty, people see thoughts folded away, and they are learned like the rest."""


class Prompts(Section):
    path: File
    """JSONL (also .gz) or Parquet with `prompt`, `messages`, or the HH form (`chosen` with "\\n\\nHuman:")."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first so many distinct prompts; all of them where not given."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of prompts held out for evaluation, chosen by a hash of the prompt and never trained on."""


class Persona(Section):
    """A simulated annotator. It prefers the answer with the higher hidden utility, imperfectly."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Its user name on the server."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Bradley–Terry noise: prefers a with probability sigmoid((u_a − u_b) / temperature); 0 is exact."""
    position_bias: float = 0.0
    """Added to the log-odds of the answer that is shown first (left); may be negative."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of tasks in which the judgement is turned around by a slip."""
    skip_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of tasks that it discards."""
    tie_width: Annotated[float, Field(ge=0)] = 0.0
    """Utilities closer than this are called a tie."""
    standard: float = 0.0
    """A single answer is good where its utility is above this, with the temperature's noise; a rating is then above
    3."""
    step: Annotated[float, Field(gt=0)] = 1.0
    """How much utility makes one step of a rating, and of how much better an answer is."""
    suggestible: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of suggestions that it takes over without a look."""


class EmbeddedServer(Section):
    type: Literal["embedded"] = "embedded"
    home: Folder | None = None
    """The embedded server's data folder; one per user where none is named."""


class RemoteServer(Section):
    type: Literal["remote"] = "remote"
    url: Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/\S*)?$")]
    """Address of a running Argilla, with http:// or https:// and no password in it."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "ARGILLA_API_KEY"
    """Name of the environment variable that holds the owner's API key; the key itself never stands in a recipe."""


class People(Section):
    type: Literal["people"] = "people"


class Personas(Section):
    type: Literal["personas"] = "personas"
    utility: Function
    """`file.py:function`; the hidden utility of (messages, answer), in the personas' own units."""
    personas: Annotated[list[Persona], Field(min_length=1)]
    """Who labels. Each is a real user of the server, with an API key of its own."""
    shuffle_labels: bool = False
    """The null control: each judgement is replaced by a coin flip, so nothing can be learned."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [p.name for p in self.personas]
        if len(set(names)) < len(names):
            raise ValueError(f"persona names must differ, found {names}")
        return self


def _word(value: Any) -> Any:
    """`by: people` says the same as `by: {type: people}`."""
    return {"type": value} if isinstance(value, str) else value


def _server(value: Any) -> Any:
    """`server: {url: …}` says the same as with `type: remote`."""
    return {"type": "remote", **value} if isinstance(value, dict) and "url" in value else _word(value)


class Gold(Section):
    """Control items: pairs whose better answer is known, asked like any other task to see how far people can be trusted."""

    path: File
    """JSONL or Parquet of `prompt`, `chosen`, `rejected`, in the forms that `preferences.from` takes."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Gold tasks asked, as a share of the other tasks (at most as many as the file has)."""


class Suggest(Section):
    """Suggested answers, pre-selected on the page: people go faster and are swayed. The report measures how much."""

    path: Function
    """`file.py:function`; scores (messages, answer), higher is better. The better answer by it is suggested; with
    `kind: single`, good for an answer above the median of the round's and bad for one below."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of tasks, drawn at random, that show the suggestion; the others are the control."""


Question = Literal["strength", "flags", "edit", "reason"]
QUESTIONS: list[Question] = ["strength", "flags", "edit", "reason"]


class Annotate(Section):
    server: Annotated[EmbeddedServer | RemoteServer, Field(discriminator="type"), BeforeValidator(_server)] = (
        EmbeddedServer()
    )
    """Which Argilla: the embedded one, started when needed, or a running one."""
    by: Annotated[People | Personas, Field(discriminator="type"), BeforeValidator(_word)] = People()
    """Who labels: people in the browser, or simulated annotators through the same server."""
    kind: Literal["pair", "rank", "single", "rating"] = "pair"
    """What one task asks: which of two answers is better; the order of up to four; thumbs up or down for one; or a
    rating of one by named criteria. All of them are compiled to pairs."""
    tasks: Annotated[int, Field(ge=1)] = 256
    """Tasks asked in each round (gold tasks and repeats come on top)."""
    overlap: Annotated[int, Field(ge=1)] = 1
    """How many annotators answer each task."""
    rank_of: Annotated[int, Field(ge=3, le=4)] | None = None
    """With `kind: rank`: how many answers stand beside each other; 4 where not given, and fewer where a prompt has
    fewer different answers."""
    criteria: list[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,39}$")]] = []
    """With `kind: rating`: what is rated from 1 to 5, as [helpful, correct]; their mean is the answer's rating."""
    ask: list[Question] = QUESTIONS
    """Optional questions beside the main one: how much better (pairs only), flags (unsafe, wrong, off topic, format), a
    corrected answer, and why."""
    repeats: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The share of tasks asked a second time, of the same person and in another order, far apart."""
    gold: Gold | None = None
    """Control items with a known answer, unmarked among the others (kinds pair and single)."""
    suggest: Suggest | None = None
    """Show suggested answers on a share of the tasks (kinds pair and single). Never by default."""
    compiler: Literal["auto", "bradley_terry", "dawid_skene", "majority"] = "auto"
    """The label compiler's model: Bradley–Terry with ties, and a reliability and position bias for each annotator;
    Dawid and Skene's confusion matrices (1979); or smoothed majority, which trusts everybody alike. `auto` is the first,
    unless another one predicts labels that were held out better by two standard errors; the report says which."""
    guidelines: File | None = None
    """A markdown file shown to annotators."""

    @model_validator(mode="before")
    @classmethod
    def _strength_of_pairs_alone(cls, data: Any) -> Any:
        """Said here and not at the end, so that a recipe with every default spelled out loads again."""
        if isinstance(data, dict) and data.get("kind", "pair") != "pair" and "ask" not in data:
            return {**data, "ask": [question for question in QUESTIONS if question != "strength"]}
        return data

    @model_validator(mode="after")
    def _enough_people(self) -> Self:
        check_overlap(self.by, self.overlap, "overlap")
        return self

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> Self:
        if self.rank_of is not None and self.kind != "rank":
            raise ValueError(f"`rank_of` belongs to `kind: rank`, found kind: {self.kind}; remove it")
        if bool(self.criteria) != (self.kind == "rating"):
            found = f"criteria {self.criteria} with kind: {self.kind}"
            raise ValueError(f"`criteria` belongs to `kind: rating`, which needs at least one; found {found}")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"`criteria` must differ, found {self.criteria}")
        for name, given in (("gold", self.gold), ("suggest", self.suggest)):
            if given is not None and self.kind not in ("pair", "single"):
                raise ValueError(f"`{name}` works with `kind: pair` and `kind: single`, found kind: {self.kind}")
        if len(set(self.ask)) < len(self.ask):
            raise ValueError(f"`ask` names a question twice, found {self.ask}")
        if "strength" in self.ask and self.kind != "pair":
            raise ValueError(f"`strength` is asked about pairs only, found kind: {self.kind}; leave it out of `ask`")
        return self


def check_overlap(by: People | Personas, overlap: int, name: str) -> None:
    if isinstance(by, Personas) and overlap > len(by.personas):
        raise ValueError(f"`{name}` {overlap} needs as many personas, found {len(by.personas)}")


class FilePreferences(Section):
    """Preferences from a file instead of from annotators: no server is used."""

    path: Annotated[File, Field(alias="from")]
    """JSONL or Parquet of `prompt`, `chosen`, `rejected` (text or messages), also the HH and sharegpt forms."""


class FileBinary(Section):
    """Thumbs up and down from a file instead of from annotators: no server is used."""

    path: Annotated[File, Field(alias="from")]
    """JSONL or Parquet of `prompt`, `completion`, `label` (whether the answer is good)."""


class FunctionJudge(Section):
    type: Literal["function"] = "function"
    path: Function
    """`file.py:function`; scores (messages, answer), higher is better."""
    tie_width: Annotated[float, Field(ge=0)] = 0.0
    """Scores closer than this count as a tie."""


class PeopleJudge(Section):
    """The annotators of `annotate` compare the new policy's answers with the first one's, not knowing which is which."""

    type: Literal["people"] = "people"
    tasks: Annotated[int, Field(ge=2)] = 100
    """Blind comparisons asked after each round, one for each held-out prompt (all of them where there are fewer)."""
    overlap: Annotated[int, Field(ge=1)] = 1
    """How many annotators answer each comparison."""


def _judge(value: Any) -> Any:
    """`judge: {path: …}` says the same as with `type: function`."""
    return {"type": "function", **value} if isinstance(value, dict) else _word(value)


class Evaluate(Decoding):
    judge: Annotated[FunctionJudge | PeopleJudge | None, Field(discriminator="type"), BeforeValidator(_judge)] = None
    """Who compares the answers on held-out prompts: a scoring function, or people in blind A/B tasks. Where none is
    named: the personas' utility with simulated annotators; with people, or with preferences from a file, samples and
    lengths and no win rate."""
    prompts: Annotated[int, Field(ge=2)] = 200
    """Held-out prompts used (all of them where there are fewer)."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers sampled for each held-out prompt."""


Method = Literal["dpo", "kto", "ppo", "rloo", "grpo", "best_of_n"]
METHODS: list[Method] = ["dpo", "kto", "ppo", "rloo", "grpo", "best_of_n"]
SCORED: list[Method] = ["ppo", "rloo", "grpo", "best_of_n"]
"""Methods that learn from scored answers of the policy's own."""


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the run's folder and the data sets on the annotation server. A recipe's file may leave it out: then the name of
    its folder is taken."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Every random choice depends on it and on content, never on the clock."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """How many times the loop goes round."""
    model: Model
    """What the loop starts from."""
    prompts: Prompts
    """What the model is asked."""
    sft: Sft | None = None
    """Supervised fine-tuning before the first round; without it the given model is the first policy."""
    rollouts: Rollouts = Rollouts()
    """How answers are sampled."""
    annotate: Annotate | None = None
    """Where judgements come from, unless `preferences` or `binary` names a file."""
    preferences: FilePreferences | None = None
    """Preferences that exist already; one round is then enough."""
    binary: FileBinary | None = None
    """Binary labels that exist already, for `kto`; one round is then enough."""
    dpo: Dpo | None = None
    """Direct preference optimisation: preferences train the policy. This is the method where none is named; there is
    one method at most."""
    kto: Kto | None = None
    """Kahneman-Tversky optimisation: thumbs up and down train the policy (`annotate.kind` single or rating, or
    `binary`)."""
    ppo: Ppo | None = None
    """Proximal policy optimisation: `reward` scores the policy's answers while it learns."""
    rloo: Rloo | None = None
    """REINFORCE leave-one-out on `reward`."""
    grpo: Grpo | None = None
    """Group-relative policy optimisation on `reward`."""
    best_of_n: BestOfN | None = None
    """Supervised fine-tuning on the best of several answers by `reward`."""
    reward: Rewards | None = None
    """What `ppo`, `rloo`, `grpo` and `best_of_n` raise. With `functions` alone nobody is asked."""
    evaluate: Evaluate = Evaluate()
    """How the new policy is compared with its parent and with the first one."""
    report_to: list[str] = []
    """TRL's experiment trackers, as trackio, wandb or tensorboard; each needs its own package."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of each stage; all cores where not given. Other counts may change the last digits of weights."""
    nproc: Annotated[int, Field(ge=1)] = 1
    """Processes that train together, one for each GPU, or some on CPU. Batches stay as they are; other counts may change
    the last digits of weights."""
    accelerate: Strategy | None = None
    """How these processes share the work: ddp (where not given), fsdp2, zero3, or a file of `accelerate config`."""

    @field_validator("report_to")
    @classmethod
    def _trackers(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in trl_tables()["trackers"]:
                close = nearest(name, trl_tables()["trackers"])
                way = f"did you mean {close}?" if close else f"it takes {', '.join(trl_tables()['trackers'])}"
                raise ValueError(f"{name!r} is no tracker of TRL; {way}")
        return value

    @model_validator(mode="after")
    def _hidden_from_what_can_do_without(self) -> Self:
        hidden = self.model.hide_thinking
        if len(set(hidden)) < len(hidden):
            raise ValueError(f"`model.hide_thinking` names one twice, found {hidden}")
        if "annotators" in hidden and self.annotate is None:
            raise ValueError(
                "`model.hide_thinking` hides thoughts from annotators, and this recipe asks nobody; remove it"
            )
        for name in ("ppo", "rloo"):
            if "loss" in hidden and getattr(self, name) is not None:
                way = "leave `loss` out of `model.hide_thinking`, or use `grpo`"
                raise ValueError(f"`{name}` weighs an answer as a whole, its thoughts included; {way}")
        return self

    @property
    def method(self) -> Method:
        """How the policy is trained in each round."""
        return next(name for name in METHODS if getattr(self, name) is not None)

    @property
    def training(self) -> Training:
        """The section of `method`."""
        section: Training = getattr(self, self.method)
        return section

    @property
    def learns_from(self) -> Literal["preferences", "binary"] | None:
        """Which rows training needs, for the policy or for its reward model."""
        if self.reward is not None and self.reward.model is None:
            return None
        return "binary" if self.kto is not None else "preferences"

    @property
    def replay(self) -> float:
        """The share of earlier rounds' rows that the policy itself is trained on again."""
        section = self.dpo or self.kto
        return section.replay if section is not None else 0.0

    @model_validator(mode="before")
    @classmethod
    def _dpo_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and all(data.get(name) is None for name in METHODS):
            return {**data, "dpo": {}}
        return data

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        named = [name for name in METHODS if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"give one method at most, found {' and '.join(named)}")
        if self.method in SCORED and self.reward is None:
            raise ValueError(f"`{self.method}` needs `reward`, which says what a good answer is")
        if self.method not in SCORED and self.reward is not None:
            raise ValueError(f"`reward` has no use with `{self.method}`; it is what {', '.join(SCORED)} raise")
        return self

    @model_validator(mode="after")
    def _processes(self) -> Self:
        if self.accelerate is not None and self.nproc == 1:
            raise ValueError("`accelerate` has no use with one process; give `nproc` 2 or more")
        if self.best_of_n is not None and self.nproc > 1:
            raise ValueError(f"`best_of_n` samples and trains in one process, found nproc: {self.nproc}")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        need, people = self.learns_from, isinstance(self.evaluate.judge, PeopleJudge)
        if need is None:
            if self.annotate is not None and not people:
                what = "`annotate` asks nobody where `reward.functions` alone say what is good"
                raise ValueError(f"{what}; remove it, or give `reward.model`")
        elif (self.annotate is None) == (getattr(self, need) is None):
            raise ValueError(f"give exactly one of `annotate` (ask people) and `{need}` (a file)")
        for name in ("preferences", "binary"):
            if getattr(self, name) is not None and need != name:
                raise ValueError(f"`{name}` has no use here: `{self.method}` learns from {need or 'no rows'}")
        if need and self.annotate is None and self.rounds > 1:
            raise ValueError(f"`{need}.from` is one file and serves one round, found rounds: {self.rounds}")
        if need == "binary" and self.annotate is not None and self.annotate.kind not in ("single", "rating"):
            raise ValueError(f"`kto` needs `annotate.kind` single or rating, found kind: {self.annotate.kind}")
        if self.annotate is None and people:
            raise ValueError("`evaluate.judge: people` asks the annotators of `annotate`, and there is no such section")
        if self.annotate is not None and isinstance(self.evaluate.judge, PeopleJudge):
            check_overlap(self.annotate.by, self.evaluate.judge.overlap, "evaluate.judge.overlap")
        return self
