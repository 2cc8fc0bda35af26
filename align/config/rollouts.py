"""How answers are sampled: the recipe's `rollouts`. The docstring after each field documents it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from align.config.base import Sampling, Section

EngineType = Literal["auto", "vllm", "transformers", "server", "ray"]
OF_ENGINES = ("server", "ray")
"""Subsections that belong to the engine with their name."""
HOW = ("retries", "sync_tolerance", "cpu", "server", "ray")
"""Keys that set how answers are sampled, and do not change which answers."""


class Ray(Section):
    """Several engines at once: workers on a Ray cluster, each with its own copy of the model."""

    address: Annotated[str, Field(pattern=r"^[^/@:\s]+:\d+$")] | None = None
    """`host:port` of a running cluster (Ray's default port is 6379); this machine must be one of its nodes. If not
    given: a cluster is started on this machine, on loopback, and stopped after sampling."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """The engine in each worker. `auto`: vLLM if it is installed, otherwise transformers."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Number of workers that sample at the same time."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPUs per worker; a worker runs as many threads."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs per worker; vLLM splits the model over them (tensor parallel). If not given: one if the cluster has any."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Prompts that a worker takes at a time. A shard must have at least one batch for each worker."""
    patience: Annotated[float, Field(gt=0)] = 120
    """Seconds to wait for the cluster to answer, and for workers to get resources on it."""


class Server(Section):
    """vLLM's OpenAI-compatible server: one that align starts, or one that is running."""

    url: Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/\S*)?$")] | None = None
    """The address of a running server, without /v1 and without a password. If not given: align starts one on loopback,
    with a random port and key, for the whole run, and stops it at the end."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "VLLM_API_KEY"
    """The name of the environment variable with the running server's API key. A recipe never contains the key
    itself."""
    model: str | None = None
    """The running server's name for the model, if it serves several."""
    concurrency: Annotated[int, Field(ge=1)] = 256
    """Concurrent requests."""
    max_lora_rank: Literal[0, 8, 16, 32, 64, 128, 256, 320, 512] = 64
    """The largest sum of LoRA ranks in a server that align starts, over the adapters of all rounds since its start. Up
    to this sum, rounds with LoRA load their adapter into the running server; above it, the server is started again, and
    a message says so. 0: no adapters."""
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """On a GPU: the share of its memory that a server started by align uses for the whole run; training has the
    rest."""
    timeout: Annotated[float, Field(gt=0)] = 600
    """Time limit for one answer in seconds, including its time in the server's queue."""
    start_timeout: Annotated[float, Field(gt=0)] = 600
    """Time limit for the start of a server, in seconds."""

    @model_validator(mode="after")
    def _options_of_a_running_server(self) -> Self:
        if self.model is not None and self.url is None:
            raise ValueError("`model` names what a running server calls its model, and there is no `url`; remove it")
        return self


class Cpu(Section):
    """Resources for vLLM on a machine without a GPU, instead of what it detects."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """Compute threads. If not given: the recipe's `threads`, else one for models under 64 MiB, else all cores that this
    process may use."""
    cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory for the key-value cache, in GiB. If not given: what `sequences` need, at most half of the memory that is
    free besides the weights."""
    sequences: Annotated[int, Field(ge=1)] | None = None
    """Answers that are sampled at the same time. If not given: 256, or as many as fit into the cache at maximum
    length."""


class MixtureComponent(Section):
    """One mixture component: a share of the answers, from one checkpoint at one temperature."""

    checkpoint: Literal["current", "parent", "sft"] = "current"
    """The model that answers. `current`: the policy that this round starts from; `parent`: its parent, the policy that
    the previous round started from; `sft`: the first policy. If two of these are the same folder, as in the first
    round, they count as one policy."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """The sampling temperature of this component. If not given: the section's `temperature`."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """The share of a prompt's answers that come from this component, relative to the shares of the other components. If
    this is not a whole number of answers per prompt, it holds over all prompts."""


class Engine(Section):
    """The inference engine, for `rollouts` and for the verbs that only sample."""

    type: EngineType = "auto"
    """The engine. `vllm`: vLLM in a process on this machine; `server`: vLLM's server; `ray`: a Ray cluster of engines;
    `transformers`; `auto`: on a GPU vLLM if it is installed; on a CPU whichever of the two should finish first, as
    vLLM takes time to start."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 512
    """Maximum length of a prompt, in tokens. Longer prompts are dropped, counted, and listed with the reason."""
    shard: Annotated[int, Field(ge=1)] = 128
    """Prompts per shard. A run that was killed continues with the missing shards."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a shard is tried again, with a new engine, after the engine died on it."""
    sync_tolerance: Annotated[float, Field(gt=0)] | None = None
    """The check before sampling that the engine has the checkpoint's weights: the largest allowed mean difference of a
    token's log-probability, in nats; ten times this for a single token. If not given: 1e-4 in float32, 0.05 in
    bfloat16."""
    cpu: Cpu | None = None
    """Resources for vLLM on a machine without a GPU. If not given: chosen from its cores and free memory."""
    server: Server | None = None
    """With `type: server`: which server. If not given: one that align starts."""
    ray: Ray | None = None
    """With `type: ray`: the cluster and its workers."""

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
    """How often an answer that repeats another answer to the same prompt is sampled again, with another seed, before it
    is dropped. Resampled answers are rarer than the answers that the policy gives by itself."""
    mixture: list[MixtureComponent] = []
    """Mixture components: answers from several temperatures or several checkpoints. If empty: all answers come from the
    current policy at `temperature`."""

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
    """Training prompts drawn for each round."""
    samples: Annotated[int, Field(ge=2)] = 2
    """Answers sampled for each prompt."""
