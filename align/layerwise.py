"""A checkpoint's log-probabilities with one layer of it in memory at a time.

The model is built without weights. Each layer of its stack, and each part outside of it (embedding, last norm, head),
gets its weights when its turn comes and loses them afterwards; the forward pass in between is transformers' own. So the
numbers are those of the whole model and the memory is that of its largest part.

Imports torch inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from align.errors import StageError
from align.store import read_json

if TYPE_CHECKING:
    from torch import Tensor

PromptAndAnswer = tuple[list[int], list[int]]
"""Token ids."""
PASS_TOKENS, PASS_ANSWERS = 4096, 512
"""The most tokens, padding included, and the most tokens of answers of one forward pass: activations and logits are to
stay small beside a layer."""

Value = TypeVar("Value")
Fill = Callable[[Any, Sequence[str]], None]
"""Gives a model's weights of these names their values."""


class WholeError(StageError):
    """A model cannot be read by layers, and why."""


def checkpoint_logprobs(
    checkpoint: Path, sequences: Sequence[PromptAndAnswer], *, dtype: str, device: Any = "cpu", padded: bool = True
) -> list[list[float]]:
    """`token_logprobs` under the weights of a folder in `dtype`, by layers."""
    return by_layers(
        checkpoint, lambda model: token_logprobs(model, sequences, padded=padded), dtype=dtype, device=device
    )


def by_layers(
    checkpoint: Path,
    compute: Callable[[Any], Value],
    *,
    dtype: str,
    device: Any = "cpu",
    kind: str = "AutoModelForCausalLM",
) -> Value:
    """What `compute` makes of a folder's model by forward passes; each reads the weights once, layer by layer.

    A model that does not let itself be read by layers is loaded whole, and the log says so. `kind` is transformers'
    class that loads it. StageError where weights are missing, are damaged or have other shapes than the model's.
    """
    import torch
    import transformers

    model = empty_model(checkpoint, dtype, device, kind)
    try:
        with filled_in_turn(model, Stored(checkpoint, model)):
            return compute(model)
    except WholeError as reason:
        _say_whole(checkpoint, model, reason)
        del model
        loader = getattr(transformers, kind)
        return compute(
            loader.from_pretrained(checkpoint, dtype=getattr(torch, dtype), local_files_only=True).to(device)
        )


class Filled:
    """What a function makes of models with a folder's architecture and the weights of one fill after another.

    A model that does not let itself be filled in turn is filled whole, each time a new one, and the log says so once.
    Its weights are copies then: what it does to them is not done to those that the fill has.
    """

    def __init__(self, checkpoint: Path, dtype: str, device: Any = "cpu") -> None:
        self._of = (checkpoint, dtype, device)
        self._empty: Any = empty_model(*self._of)

    def __call__(self, fill: Fill, compute: Callable[[Any], Value]) -> Value:
        if self._empty is not None:
            try:
                with filled_in_turn(self._empty, fill):
                    return compute(self._empty)
            except WholeError as reason:
                _say_whole(self._of[0], self._empty, reason)
                self._empty = None
        model = empty_model(*self._of)
        names = list(model.state_dict(keep_vars=True))
        fill(model, names)
        for name in names:
            set_weight(model, name, _weight(model, name).detach().clone())
        return compute(model)


def _say_whole(checkpoint: Path, model: Any, reason: WholeError) -> None:
    named = type(model).__name__
    print(f"{checkpoint}: {named} cannot be read by layers ({reason.what}); all of it is loaded", file=sys.stderr)


def empty_model(checkpoint: Path, dtype: str, device: Any = "cpu", kind: str = "AutoModelForCausalLM") -> Any:
    """The model of a folder without its weights, which are on torch's device `meta`; its buffers are on `device`."""
    import torch
    import transformers
    from accelerate import init_empty_weights

    config = transformers.AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    config = as_trained(config)
    with init_empty_weights(include_buffers=False):
        model = getattr(transformers, kind).from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    model.computes_on, model.computes_in = torch.device(device), getattr(torch, dtype)
    return model.eval()


def as_trained(config: Any) -> Any:
    """A config whose model keeps its weights as they are when it is evaluated: RWKV would halve later layers' in place,
    and they would be published so."""
    if hasattr(config, "rescale_every"):
        config.rescale_every = 0
    return config


def device_of(model: Any) -> Any:
    """Where a model computes, which of an `empty_model` its weights do not say."""
    return getattr(model, "computes_on", None) or model.device


def token_logprobs(model: Any, sequences: Sequence[PromptAndAnswer], *, padded: bool = True) -> list[list[float]]:
    """The natural log-probability of each answer's tokens after its prompt, at temperature 1.

    Rows of several lengths share a pass and are `padded`, or else only those of one length do: a few architectures give
    slightly other numbers beside padding.
    """
    import torch

    found: list[list[float]] = [[] for _ in sequences]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for rows in _passes(sequences, padded):
            for row, logps in zip(rows, _pass(model, [sequences[row] for row in rows]), strict=True):
                found[row] = logps
    model.train(was_training)
    return found


def _passes(sequences: Sequence[PromptAndAnswer], padded: bool) -> Iterator[list[int]]:
    """Rows of similar length, so many that they stay within `PASS_TOKENS` and `PASS_ANSWERS`; one at least."""
    lengths = [len(prompt) + len(answer) for prompt, answer in sequences]
    rows: list[int] = []
    answers = 0
    for row in sorted(range(len(sequences)), key=lambda row: -lengths[row]):
        longest, more = lengths[rows[0] if rows else row], len(sequences[row][1])
        full = longest * (len(rows) + 1) > PASS_TOKENS or answers + more > PASS_ANSWERS
        if rows and (full or not (padded or lengths[row] == longest)):
            yield rows
            rows, answers = [], 0
        rows.append(row)
        answers += more
    if rows:
        yield rows


def _pass(model: Any, several: Sequence[PromptAndAnswer]) -> list[list[float]]:
    """One forward pass of rows that are padded behind their end. The head works at the places alone that predict an
    answer's token."""
    import torch

    device = device_of(model)
    ids = [torch.tensor(prompt + answer) for prompt, answer in several]
    ids_BT = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    lengths_B = torch.tensor([len(one) for one in ids], device=device)
    mask_BT = (torch.arange(ids_BT.shape[1], device=device) < lengths_B[:, None]).long()
    masked = {} if bool(mask_BT.all()) else {"attention_mask": mask_BT}
    rows_N = torch.cat([torch.full((len(answer),), row) for row, (_, answer) in enumerate(several)]).to(device)
    places_N = torch.cat([torch.arange(len(p) - 1, len(p) + len(a) - 1) for p, a in several]).to(device)
    head = model.get_output_embeddings()
    if head is None:
        raise WholeError("it names no output layer")
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][rows_N, places_N][None], *given[1:]))
    try:
        logits_1NV = model(input_ids=ids_BT, use_cache=False, **masked).logits
    finally:
        hook.remove()
    if logits_1NV.shape[:2] != (1, len(rows_N)):
        raise WholeError("its output layer is not the last one")
    said: list[float] = []
    for logits_CV, ids_C in zip(logits_1NV[0].split(64), ids_BT[rows_N, places_N + 1].split(64), strict=True):
        said += logits_CV.float().log_softmax(-1).gather(1, ids_C[:, None])[:, 0].tolist()
    told = iter(said)
    return [[next(told) for _ in answer] for _, answer in several]


def stored_parts(checkpoint: Path, dtype: str) -> Iterator[dict[str, Tensor]]:
    """The weights of a folder by their names in the model, one part after the other; a tied one comes under each
    name."""
    model = empty_model(checkpoint, dtype)
    fill = Stored(checkpoint, model)
    for _, names in _parts(model):
        empty = {name: w for name in names if (w := _weight(model, name)).is_meta}
        fill(model, names)
        yield {name: _weight(model, name).data for name in names}
        for name, weights in empty.items():
            set_weight(model, name, weights)


def given(weights: Callable[[str], Tensor | None]) -> Fill:
    """Fills a model from a function of names, which knows each weight under one of the names that it has."""

    def fill(model: Any, names: Sequence[str]) -> None:
        for name in names:
            found = next((one for twin in twins(model, name) if (one := weights(twin)) is not None), None)
            if found is not None:  # else a buffer that is none of the weights
                set_weight(model, name, found)

    return fill


@contextmanager
def filled_in_turn(model: Any, fill: Fill) -> Iterator[None]:
    """Inside the block each part of an `empty_model` has its weights while it computes; what did not is read at its
    end, for weights that no forward pass asks for have to be whole too."""
    guard, parts, read = _no_absent(), _parts(model), set[int]()
    empty = [{name: w for name in names if (w := _weight(model, name)).is_meta} for _, names in parts]

    def filled(number: int) -> None:
        with guard.resting():
            if number not in read or any(_weight(model, name).is_meta for name in empty[number]):
                fill(model, parts[number][1])
        read.add(number)

    def emptied(number: int) -> None:
        with guard.resting():
            for name, weights in empty[number].items():
                set_weight(model, name, weights)

    hooks = []
    for number, (module, _) in enumerate(parts):
        hooks.append(module.register_forward_pre_hook(lambda *_, number=number: filled(number)))
        hooks.append(module.register_forward_hook(lambda *_, number=number: emptied(number), always_call=True))
        if module is model.get_input_embeddings():  # some models ask first on which device it is
            hooks.append(model.register_forward_pre_hook(lambda *_, number=number: filled(number)))
    try:
        with guard:
            yield
        for number in sorted(set(range(len(parts))) - read):
            filled(number)
            emptied(number)
    finally:
        for hook in hooks:
            hook.remove()


def _no_absent() -> Any:
    """A mode in which nothing is computed from weights that are not there, which torch does not always refuse."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Guard(TorchDispatchMode):
        rests = False

        @contextmanager
        def resting(self) -> Iterator[None]:
            self.rests = True
            try:
                yield
            finally:
                self.rests = False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [] if self.rests else tree_leaves((args, kwargs))
            if any(isinstance(one, Tensor) and one.is_meta for one in given):
                raise WholeError(f"{func} asks for weights out of their turn")
            return func(*args, **(kwargs or {}))

    return Guard()


def _parts(model: Any) -> list[tuple[Any, list[str]]]:
    """The modules that get their weights together, with the names of these: the layers, and each other one by
    itself."""
    from torch.nn import ModuleList

    names = list(model.state_dict(keep_vars=True))
    layers: dict[str, Any] = {}
    for path, module in model.named_modules():
        if isinstance(module, ModuleList) and not any(path.startswith(f"{layer}.") for layer in layers):
            layers |= {f"{path}.{place}": layer for place, layer in enumerate(module)}
    found = {path: (layer, [n for n in names if n.startswith(f"{path}.")]) for path, layer in layers.items()}
    for path, module in model.named_modules():
        if not any(path == layer or path.startswith(f"{layer}.") for layer in layers):
            own = [n for n in names if n.rpartition(".")[0] == path]
            found[path] = (module, own)
    return [(module, own) for module, own in found.values() if own]


def _weight(model: Any, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last)


def set_weight(model: Any, name: str, weights: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer, whatever its device was."""
    from torch.nn import Parameter

    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    if last in module._buffers:
        module._buffers[last] = weights
    else:
        module._parameters[last] = (
            weights if isinstance(weights, Parameter) else Parameter(weights, requires_grad=False)
        )


def twins(model: Any, name: str) -> list[str]:
    """Names of the same weight: itself and those that it is tied to."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    source = tied.get(name, name)
    return list(dict.fromkeys([name, source, *(other for other, its in tied.items() if its == source)]))


class Stored:
    """Fills a model from a folder's safetensors, by transformers' own rules for names, forms and types.

    `model` is any that has the folder's architecture: it says which of the stored tensors make which weights.
    """

    def __init__(self, checkpoint: Path, model: Any) -> None:
        from safetensors import SafetensorError, safe_open
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        if getattr(model.config, "quantization_config", None) is not None:
            raise WholeError("its weights are quantised", where=str(checkpoint))
        rules = get_model_conversion_mapping(model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        shapes = model.state_dict()
        self._checkpoint = checkpoint
        self._files: dict[str, Path] = {}
        self._keys: dict[str, list[str]] = {}
        if not weight_files(checkpoint):
            raise self._damaged("it has none as safetensors")
        for file in weight_files(checkpoint):
            try:
                with safe_open(file, framework="pt") as weights:  # type: ignore[no-untyped-call]
                    keys = list(weights.keys())
            except (SafetensorError, OSError) as error:
                raise self._damaged(f"{file.name} cannot be read ({error})") from error
            for key in keys:
                name, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, shapes)
                if name not in shapes and key in shapes:
                    name, _ = rename_source_key(key, [], [], model.base_model_prefix, shapes)
                self._files[key] = file
                self._keys.setdefault(name, []).append(key)

    def __call__(self, model: Any, names: Sequence[str]) -> None:
        missing = self._load(model, [key for name in names for key in self._keys.get(name, [])]) & set(names)
        for name in sorted(missing):
            stored = next((other for other in twins(model, name) if other in self._keys), None)
            if stored is None:
                raise self._damaged(f"it lacks {name}")
            empty = _weight(model, stored)
            self._load(model, self._keys[stored])
            set_weight(model, name, _weight(model, stored))
            if stored not in names:
                set_weight(model, stored, empty)

    def _load(self, model: Any, keys: Sequence[str]) -> set[str]:
        """Put what these stored tensors make into the model; the names of all its weights that they do not make."""
        from safetensors import SafetensorError, safe_open
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        how = LoadStateDictConfig(
            dtype=model.computes_in, dtype_plan=model._get_dtype_plan(model.computes_in), device_map={"": model.computes_on},
            weight_mapping=get_model_conversion_mapping(model),
        )  # fmt: skip
        with ExitStack() as stack:
            try:
                files = {
                    file: stack.enter_context(safe_open(file, framework="pt"))  # type: ignore[no-untyped-call]
                    for file in {self._files[key] for key in keys}
                }
                slices = {key: files[self._files[key]].get_slice(key) for key in keys}
                stack.enter_context(_no_bars())
                told, _ = convert_and_load_state_dict_in_model(model, slices, how)
            except (SafetensorError, OSError) as error:
                raise self._damaged(
                    f"{keys[0]} and others cannot be read ({str(error).splitlines()[0][:200]})"
                ) from error
        if told.mismatched_keys:
            name, stored, wanted = sorted(told.mismatched_keys)[0]
            raise self._damaged(f"{name} has the shape {list(stored)} and the model's has {list(wanted)}")
        if told.conversion_errors:
            name, why = sorted(told.conversion_errors.items())[0]
            raise self._damaged(f"{name} cannot be made of what is stored ({str(why).splitlines()[0][:200]})")
        return set(told.missing_keys)

    def _damaged(self, what: str) -> StageError:
        return StageError(
            f"the checkpoint's weights are not those of its config: {what}",
            where=str(self._checkpoint),
            hint="fetch or publish it again",
        )


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers would draw a progress bar for each layer."""
    from transformers.utils import logging

    on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if on:
            logging.enable_progress_bar()


def weight_files(folder: Path) -> list[Path]:
    """A folder's files of weights as safetensors: those of its index, else the one file; empty where it has neither."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []
