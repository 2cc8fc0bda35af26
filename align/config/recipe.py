"""The recipe: what a run does. The docstring after each field documents it.

Unknown keys are refused with a suggestion of the most similar key; relative paths start at the recipe's folder.
"""

from datetime import date as day
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from align.config.base import Decoding, Section
from align.config.gate import Gate
from align.config.paths import File, Folder, Function, ModelPath, Strategy, Template
from align.config.rollouts import Rollouts
from align.config.trainer import nearest, trl_tables
from align.config.training import BestOfN, Dpo, Grpo, Kto, Ppo, Rewards, Rloo, Sft, Training


class Source(Section):
    path: ModelPath
    """A causal language model: a folder or a Hub id. A value is a folder if it starts with `./`, `../`, `/` or `~`, or
    if a folder of that name exists."""
    revision: str | None = None
    """The Hub revision. If not given: the default branch. Not for folders."""

    @model_validator(mode="after")
    def _revision_of_a_hub_id(self) -> Self:
        if self.revision is not None and self.path.startswith("/"):
            raise ValueError(f"`revision` belongs to a Hub id, and {self.path} is a folder; remove it")
        return self


class Templating(Section):
    """A model's chat template and its variables; each checkpoint is published with them."""

    chat_template: Template | None = None
    """The chat template, if the tokenizer has none: `plain`, `chatml` or the path of a Jinja file."""
    replace_chat_template: bool = False
    """Use `chat_template` instead of the tokenizer's own."""
    chat_template_kwargs: dict[str, Any] = {}
    """More variables for the chat template, such as `{enable_thinking: false}`; they are written into the template of
    each checkpoint."""
    date: str | None = None
    """A fixed date, such as 2026-01-31, for a chat template that would write today's date. If not given: the date when
    the run started."""

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
    """Data type of the weights in training and in generation; use bfloat16 on a GPU."""
    hide_thinking: list[Literal["annotators", "loss"]] = []
    """Where to hide an answer's thoughts (`<think>…</think>`). `annotators`: people see and compare only the text after
    the thoughts, on the page and in what is exported as shown to them. `loss`: training learns only the text after the
    thoughts, given the thoughts, and a reward model reads only that text (not for `ppo` and `rloo`, which weigh whole
    answers). If empty: people see the thoughts collapsed, and training learns them like the rest."""


class Prompts(Section):
    path: File
    """JSONL (also .gz) or Parquet with `prompt`, `messages`, or the HH format (`chosen` with "\\n\\nHuman:")."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first `limit` distinct prompts. If not given: all of them."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of prompts held out for evaluation. They are chosen by a hash of the prompt and never trained on."""


class Persona(Section):
    """A simulated annotator. It prefers the answer with the higher hidden utility, with errors."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Its user name on the server."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Bradley–Terry noise: it prefers a with probability sigmoid((u_a − u_b) / temperature); 0 is without noise."""
    position_bias: float = 0.0
    """Added to the log-odds of the answer shown first (left); may be negative."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of tasks with a random mistake: the judgement is reversed."""
    skip_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of tasks that it skips."""
    tie_width: Annotated[float, Field(ge=0)] = 0.0
    """Utilities that differ by less than this are a tie."""
    standard: float = 0.0
    """A single answer is good if its utility is above this, with the noise of `temperature`; its rating is then above
    3."""
    step: Annotated[float, Field(gt=0)] = 1.0
    """The difference in utility for one step of a rating, and for one step of how much better an answer is."""
    suggestible: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of suggestions that it accepts without judging the answers."""


class EmbeddedServer(Section):
    type: Literal["embedded"] = "embedded"
    home: Folder | None = None
    """The data folder of the embedded server. If not given: one per user."""


class RemoteServer(Section):
    type: Literal["remote"] = "remote"
    url: Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/\S*)?$")]
    """The address of a running Argilla server, with http:// or https:// and without a password."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "ARGILLA_API_KEY"
    """The name of the environment variable with the owner's API key. A recipe never contains the key itself."""


class People(Section):
    type: Literal["people"] = "people"


class Personas(Section):
    type: Literal["personas"] = "personas"
    utility: Function
    """`file.py:function`: the hidden utility of (messages, answer), in the unit that the personas' settings use."""
    personas: Annotated[list[Persona], Field(min_length=1)]
    """The simulated annotators. Each is a real user of the server, with its own API key."""
    shuffle_labels: bool = False
    """A control experiment: each judgement is replaced by a coin flip, so there is nothing to learn."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [p.name for p in self.personas]
        if len(set(names)) < len(names):
            raise ValueError(f"persona names must differ, found {names}")
        return self


def _word(value: Any) -> Any:
    """`by: people` means the same as `by: {type: people}`."""
    return {"type": value} if isinstance(value, str) else value


def _server(value: Any) -> Any:
    """`server: {url: …}` means the same as with `type: remote`."""
    return {"type": "remote", **value} if isinstance(value, dict) and "url" in value else _word(value)


class Gold(Section):
    """Control items: pairs whose better answer is known. They are asked like other tasks, to see how far annotators can
    be trusted."""

    path: File
    """JSONL or Parquet of `prompt`, `chosen`, `rejected`, in the formats of `preferences.from`."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Number of control items, as a share of the other tasks (at most as many as the file has)."""


class Suggest(Section):
    """Suggested answers, pre-selected on the page. They make people faster, but also bias them; the report measures
    this suggestion effect."""

    path: Function
    """`file.py:function` that scores (messages, answer); higher is better. It suggests the answer with the higher
    score; with `kind: single`, it suggests good for an answer above the median of the round and bad for one below."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of tasks, chosen at random, that show the suggestion; the other tasks are the control group."""


Question = Literal["strength", "flags", "edit", "reason"]
QUESTIONS: list[Question] = ["strength", "flags", "edit", "reason"]


class Annotate(Section):
    server: Annotated[EmbeddedServer | RemoteServer, Field(discriminator="type"), BeforeValidator(_server)] = (
        EmbeddedServer()
    )
    """Which Argilla server to use: the embedded one, started when needed, or a running one."""
    by: Annotated[People | Personas, Field(discriminator="type"), BeforeValidator(_word)] = People()
    """The annotators: people in the browser, or simulated annotators that use the same server."""
    kind: Literal["pair", "rank", "single", "rating"] = "pair"
    """What one task asks. `pair`: which of two answers is better. `rank`: the order of up to four answers. `single`: a
    binary label (good or bad) for one answer. `rating`: a rating of one answer by named criteria. All kinds are
    compiled to pairs."""
    tasks: Annotated[int, Field(ge=1)] = 256
    """Tasks per round, without control items and repeats."""
    overlap: Annotated[int, Field(ge=1)] = 1
    """How many annotators answer each task."""
    rank_of: Annotated[int, Field(ge=3, le=4)] | None = None
    """With `kind: rank`: how many answers one task shows. If not given: 4. A prompt with fewer different answers shows
    fewer."""
    criteria: list[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,39}$")]] = []
    """With `kind: rating`: the criteria, each rated from 1 to 5, such as [helpful, correct]. Their mean is the answer's
    rating."""
    ask: list[Question] = QUESTIONS
    """Additional, optional questions. `strength`: how much better (pairs only). `flags`: unsafe, wrong, off topic,
    format. `edit`: a corrected answer. `reason`: why."""
    repeats: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The share of tasks that the same annotator is asked a second time, much later and with the answers in another
    order."""
    gold: Gold | None = None
    """Control items, whose right answer is known; they look like the other tasks (kinds pair and single)."""
    suggest: Suggest | None = None
    """Show suggested answers on a share of the tasks (kinds pair and single). Off by default."""
    compiler: Literal["auto", "bradley_terry", "dawid_skene", "majority"] = "auto"
    """The label compiler's model. `bradley_terry`: Bradley–Terry with ties, and with a reliability and a position bias
    for each annotator. `dawid_skene`: confusion matrices (Dawid and Skene 1979). `majority`: smoothed majority, which
    trusts all annotators equally. `auto`: `bradley_terry`, unless another model predicts held-out labels better by two
    standard errors; the report says which model was used."""
    guidelines: File | None = None
    """A Markdown file with guidelines, shown to annotators."""

    @model_validator(mode="before")
    @classmethod
    def _strength_of_pairs_alone(cls, data: Any) -> Any:
        """Set here and not later, so that a recipe written out with every default loads again."""
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
    """Preferences from a file instead of from annotators; no server is used."""

    path: Annotated[File, Field(alias="from")]
    """JSONL or Parquet of `prompt`, `chosen`, `rejected` (text or messages); also the HH and ShareGPT formats."""


class FileBinary(Section):
    """Binary labels from a file instead of from annotators; no server is used."""

    path: Annotated[File, Field(alias="from")]
    """JSONL or Parquet of `prompt`, `completion`, `label` (whether the answer is good)."""


class FunctionJudge(Section):
    type: Literal["function"] = "function"
    path: Function
    """`file.py:function` that scores (messages, answer); higher is better."""
    tie_width: Annotated[float, Field(ge=0)] = 0.0
    """Scores that differ by less than this are a tie."""


class PeopleJudge(Section):
    """The annotators of `annotate` compare the new policy's answers with those of the first policy, blind."""

    type: Literal["people"] = "people"
    tasks: Annotated[int, Field(ge=2)] = 100
    """Blind comparisons after each round, one for each held-out prompt (all of them if there are fewer)."""
    overlap: Annotated[int, Field(ge=1)] = 1
    """How many annotators answer each comparison."""


def _judge(value: Any) -> Any:
    """`judge: {path: …}` means the same as with `type: function`."""
    return {"type": "function", **value} if isinstance(value, dict) else _word(value)


class Evaluate(Decoding):
    judge: Annotated[FunctionJudge | PeopleJudge | None, Field(discriminator="type"), BeforeValidator(_judge)] = None
    """The judge of the answers to held-out prompts: a scoring function, or people in blind A/B tasks. If not given:
    with simulated annotators, their utility; with people, or with preferences from a file, there are samples and
    lengths but no win rate."""
    prompts: Annotated[int, Field(ge=2)] = 200
    """Number of held-out prompts to use (all of them if there are fewer)."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers sampled for each held-out prompt."""


Method = Literal["dpo", "kto", "ppo", "rloo", "grpo", "best_of_n"]
METHODS: list[Method] = ["dpo", "kto", "ppo", "rloo", "grpo", "best_of_n"]
SCORED: list[Method] = ["ppo", "rloo", "grpo", "best_of_n"]
"""Methods that learn from the policy's own answers, scored by a reward."""


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """The name of the run's folder and of the data sets on the annotation server. If a recipe file does not give it:
    the name of the file's folder."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed. Every random choice depends on it and on the content, never on the clock."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """Number of rounds. Each round samples answers, collects labels, trains and evaluates."""
    model: Model
    """The model to start from."""
    prompts: Prompts
    """The prompts for the model."""
    sft: Sft | None = None
    """Supervised fine-tuning before the first round. Without it, the given model is the first policy."""
    rollouts: Rollouts = Rollouts()
    """How answers are sampled."""
    annotate: Annotate | None = None
    """How judgements are collected, unless `preferences` or `binary` names a file."""
    preferences: FilePreferences | None = None
    """Existing preferences from a file; for one round only."""
    binary: FileBinary | None = None
    """Existing binary labels (good or bad for one answer) from a file, for `kto`; for one round only."""
    dpo: Dpo | None = None
    """Train with DPO (direct preference optimisation) on preferences. This is the default method. A recipe has at most
    one method."""
    kto: Kto | None = None
    """Train with KTO (Kahneman-Tversky optimisation) on binary labels. They come from `annotate.kind` single or rating,
    or from `binary`."""
    ppo: Ppo | None = None
    """Train with PPO (proximal policy optimisation): `reward` scores the policy's answers while it learns."""
    rloo: Rloo | None = None
    """Train with RLOO (REINFORCE leave-one-out) on `reward`."""
    grpo: Grpo | None = None
    """Train with GRPO (group-relative policy optimisation) on `reward`."""
    best_of_n: BestOfN | None = None
    """Supervised fine-tuning on the best of several answers, chosen by `reward`."""
    reward: Rewards | None = None
    """The reward that `ppo`, `rloo`, `grpo` and `best_of_n` maximise. With only `functions`, no annotators are
    asked."""
    evaluate: Evaluate = Evaluate()
    """How the new policy is compared with its parent (the policy that the round started from) and with the first
    policy."""
    gate: Gate | None = None
    """After each round, the run goes on only if the new policy is better. It needs `evaluate.judge: people`."""
    report_to: list[str] = []
    """TRL's experiment trackers, such as trackio, wandb or tensorboard; each needs its own package."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of each stage. If not given: all cores. Another number may change the last digits of weights."""
    nproc: Annotated[int, Field(ge=1)] = 1
    """Number of training processes: one per GPU, or several on a CPU. The batches stay the same; another number may
    change the last digits of weights."""
    accelerate: Strategy | None = None
    """How these processes share the work: ddp (the default), fsdp2, zero3, or a file of `accelerate config`."""

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
        """The method that trains the policy in each round."""
        return next(name for name in METHODS if getattr(self, name) is not None)

    @property
    def training(self) -> Training:
        """The section of `method`."""
        section: Training = getattr(self, self.method)
        return section

    @property
    def learns_from(self) -> Literal["preferences", "binary"] | None:
        """The kind of rows that training needs, for the policy or for its reward model."""
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
        if self.gate is not None and not people:
            raise ValueError("`gate` decides by what people say, and needs `evaluate.judge: people`")
        if self.annotate is not None and isinstance(self.evaluate.judge, PeopleJudge):
            check_overlap(self.annotate.by, self.evaluate.judge.overlap, "evaluate.judge.overlap")
        return self
