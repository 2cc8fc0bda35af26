"""How answers are sampled: the recipe's `rollouts`. Each field is documented once, beneath itself."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from align.config.base import Sampling, Section

EngineType = Literal["auto", "vllm", "transformers", "server", "ray"]
OF_ENGINES = ("server", "ray")
"""Sub-sections that belong to the engine of their name."""
HOW = ("retries", "sync_tolerance", "cpu", "server", "ray")
"""Keys that say how answers are sampled and not which."""


class Ray(Section):
    """Several engines at once: workers on a Ray cluster, each with a model of its own."""

    address: Annotated[str, Field(pattern=r"^[^/@:\s]+:\d+$")] | None = None
    """`host:port` of a running cluster (Ray's own port is 6379), of which this machine is a node. Without it one is
    started on this machine, on loopback, and ended with the sampling."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """The engine in each worker; `auto` is vLLM where it is installed."""
    workers: Annotated[int, Field(ge=1)] = 2
    """How many workers sample at the same time."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPUs of each worker; it runs as many threads."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of each worker, over which vLLM splits the model (tensor parallel); one where the cluster has any."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Prompts that a worker takes at a time. A shard has to hold one batch for each worker."""
    patience: Annotated[float, Field(gt=0)] = 120
    """Seconds that the cluster may take to answer, and workers may wait for room on it."""


class Server(Section):
    """vLLM's OpenAI-compatible server: started by us, or one that is running."""

    url: Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/\S*)?$")] | None = None
    """Address of a running server, without /v1 and with no password in it. Without it one is started on loopback, with a
    random port and key; it stays for the whole run and ends with it."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "VLLM_API_KEY"
    """Name of the environment variable that holds the running server's key; the key itself never stands in a recipe."""
    model: str | None = None
    """The running server's name for the model, where it serves several."""
    concurrency: Annotated[int, Field(ge=1)] = 256
    """Requests in flight at once."""
    max_lora_rank: Literal[0, 8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Room for adapters in a server that we start: the sum of the ranks of the rounds' adapters since its start. Rounds
    under LoRA load theirs into the running server while that holds; otherwise it starts again, and says so. 0 is no
    adapters at all."""
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """On a GPU, the share of its memory that a server of ours holds for the whole run; training has the rest."""
    timeout: Annotated[float, Field(gt=0)] = 600
    """Seconds that one answer may take, its waiting in the server's queue included."""
    start_timeout: Annotated[float, Field(gt=0)] = 600
    """Seconds that a server may take to start."""

    @model_validator(mode="after")
    def _options_of_a_running_server(self) -> Self:
        if self.model is not None and self.url is None:
            raise ValueError("`model` names what a running server calls its model, and there is no `url`; remove it")
        return self


class Cpu(Section):
    """What vLLM takes of a machine without a GPU, instead of what it finds there."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that compute. Where not given: the recipe's `threads`, else one for models under 64 MiB, else all cores
    that this process may use."""
    cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory for the key-value cache. Where not given: what `sequences` take, and at most half of what is free beside the
    weights."""
    sequences: Annotated[int, Field(ge=1)] | None = None
    """Answers under way at once. Where not given: 256, or as many as the cache holds at their longest."""


class MixtureComponent(Section):
    """One kind of answers in a mixture."""

    checkpoint: Literal["current", "parent", "sft"] = "current"
    """Who answers: the policy that this round starts from, the one before it, or the first one. Where two of these are the
    same folder, as in the first round, their answers count as one policy's."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """That of these answers; `temperature` of the section where not given."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """How many of a prompt's answers are of this kind, in proportion to the other parts' shares. Where that is no whole
    number for each prompt, it holds over all prompts."""


class Engine(Section):
    """What samples, for `rollouts` and for the verbs that sample alone."""

    type: EngineType = "auto"
    """The engine: vLLM in a process on this machine, vLLM's server, a Ray cluster of engines, or transformers; `auto` is
    vLLM where it is installed."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 512
    """Longer prompts are dropped, counted and kept with the reason."""
    shard: Annotated[int, Field(ge=1)] = 128
    """Prompts per shard; a killed run continues with the missing shards."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a shard is tried again with a fresh engine where the engine died of it."""
    sync_tolerance: Annotated[float, Field(gt=0)] | None = None
    """The sync check before sampling: how far engine and checkpoint may be apart about a token's log-probability, in nats,
    in the mean; ten times that for one token. Where not given: 1e-4 in float32, 0.05 in bfloat16."""
    cpu: Cpu | None = None
    """What vLLM may take of a machine without a GPU; chosen from its cores and its free memory where not given."""
    server: Server | None = None
    """For `type: server`: which server; one of our own where not given."""
    ray: Ray | None = None
    """For `type: ray`: the cluster and its workers."""

    @model_validator(mode="after")
    def _options_of_the_engine(self) -> Self:
        if self.cpu is not None and self.cpu.cache_gib is not None and self.type == "transformers":
            raise ValueError("`cpu.cache_gib` has no use with `type: transformers`, whose cache grows as it needs")
        for name in OF_ENGINES:
            if getattr(self, name, None) is not None and self.type != name:
                raise ValueError(f"`{name}` belongs to `type: {name}`, found type: {self.type}; remove one of them")
        return self

    @model_validator(mode="after")
    def _work_for_every_worker(self) -> Self:
        ray = self.ray or Ray()
        needed = ray.workers * ray.batch
        if self.type == "ray" and self.shard < needed:
            what = f"{ray.workers} workers that take {ray.batch} prompts at a time need a `shard` of {needed} at least"
            raise ValueError(f"{what}, found {self.shard}; raise `shard`, or lower `workers` or `batch` in `ray`")
        return self


class SamplingConfig(Engine, Sampling):
    """How several answers to each prompt are sampled."""

    samples: Annotated[int, Field(ge=1)] = 2
    """Answers sampled for each prompt."""
    max_resamples: Annotated[int, Field(ge=0)] = 0
    """How often an answer that repeats another one to the same prompt is drawn again, with another seed, before it is
    dropped. Answers drawn again are rarer ones than the policy would give by itself."""
    mixture: list[MixtureComponent] = []
    """Kinds of answers: several temperatures, several checkpoints. All answers are of one kind where none is named."""

    @model_validator(mode="after")
    def _different_samples(self) -> Self:
        kinds = [(p.checkpoint, self.temperature if p.temperature is None else p.temperature) for p in self.mixture]
        if len(set(kinds)) < len(kinds):
            raise ValueError("`mixture` names one checkpoint with one temperature twice; add up their shares")
        total = sum(part.share for part in self.mixture)
        shares = [part.share / total for part in self.mixture] or [1.0]
        for (_, temperature), share in zip(kinds or [("current", self.temperature)], shares, strict=True):
            if temperature == 0 and share * self.samples > 1:
                what = f"`temperature` 0 gives the same answer every time, and {share * self.samples:g} are asked for"
                raise ValueError(f"{what} to each prompt; raise it, or ask for one at most")
        return self


class Rollouts(SamplingConfig):
    prompts: Annotated[int, Field(ge=1)] = 256
    """Train prompts drawn for each round."""
    samples: Annotated[int, Field(ge=2)] = 2
    """Answers sampled for each prompt."""
