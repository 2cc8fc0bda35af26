"""Writes `trl_keys.json`: the options of TRL's trainers as plain tables, so that a recipe is checked without torch.

python -m align.config.generate rewrite the file after an update of TRL or transformers

`versions` are the versions that the tables were made from, `trackers` the names that `report_to` takes. `kinds` gives
the types of YAML value for each trainer and option, and `choices` the allowed texts if they are limited. A test runs
`tables()` and compares, so the file cannot drift from the installed libraries.
"""

import dataclasses
import enum
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("trl_keys.json")
KINDS = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict", type(None): "null"}
ALSO = {("dpo", "loss_type"): {"str"}}
"""Types that a class accepts in `__post_init__`, beyond its annotation."""


def tables() -> dict[str, Any]:
    """The content of `trl_keys.json` for the installed libraries."""
    import transformers
    import trl
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.sft_config import SFTConfig

    configs = {"sft": SFTConfig, "dpo": DPOConfig, "kto": KTOConfig, "reward": RewardConfig}
    configs |= {"rloo": RLOOConfig, "grpo": GRPOConfig}
    kinds: dict[str, dict[str, str]] = {trainer: {} for trainer in configs}
    choices: dict[str, dict[str, str]] = {trainer: {} for trainer in configs}
    for trainer, config in configs.items():
        hints = typing.get_type_hints(config)
        for field in sorted(dataclasses.fields(config), key=lambda f: f.name):
            found = _kinds(hints[field.name]) | ALSO.get((trainer, field.name), set())
            kinds[trainer][field.name] = " ".join(sorted(found))
            if values := _choices(hints[field.name], field.metadata):
                choices[trainer][field.name] = " ".join(values)
    versions = {"transformers": transformers.__version__, "trl": trl.__version__}
    return {"versions": versions, "trackers": sorted(INTEGRATION_TO_CALLBACK), "kinds": kinds, "choices": choices}


def _kinds(hint: Any) -> set[str]:
    """The types of YAML value that an annotation takes; types that YAML cannot express are left out."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set[str]().union(*(_kinds(part) for part in typing.get_args(hint)))
    if origin is typing.Literal:
        return {KINDS[type(value)] for value in typing.get_args(hint)}
    kind = origin or hint
    if issubclass(kind, enum.Enum):
        return {"str"}
    return {KINDS[kind]} if kind in KINDS else set()


def _choices(hint: Any, metadata: typing.Mapping[str, Any]) -> list[str]:
    """The allowed texts, if an enum, `choices` or the help ("Possible values are: …") lists them."""
    for part in (hint, *typing.get_args(hint)):
        if isinstance(part, type) and issubclass(part, enum.Enum):
            return [str(member.value) for member in part]
    if "choices" in metadata:
        return [str(value) for value in metadata["choices"]]
    listed = re.search(r"Possible values are: (.*?)\.", str(metadata.get("help", "")))
    return re.findall(r"`'?(\w+)'?`", listed[1]) if listed else []


if __name__ == "__main__":
    FILE.write_text(json.dumps(tables(), indent=1) + "\n", encoding="utf-8")
