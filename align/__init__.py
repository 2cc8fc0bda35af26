"""Alignment with human feedback: a library, and the command `align`. docs/api.md lists all names, with an example.

Names are imported when they are first used, so `import align` takes milliseconds and does not import torch.
"""

from align.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from align.api.answers import evaluate, sample
    from align.api.files import load_binary, load_candidates, load_demonstrations, load_preferences, load_prompts
    from align.api.given import Compute, Estimate, Evaluation, Labelled, Labels, Rows, Samples, Trained, Workspace
    from align.api.labels import ask, compare_blind, compile_labels
    from align.api.runs import RunResult, load_recipe, require_sections, run
    from align.api.scorers import load_scorer
    from align.api.training import (
        import_model,
        train_best_of_n,
        train_dpo,
        train_grpo,
        train_kto,
        train_ppo,
        train_reward,
        train_rloo,
        train_sft,
    )
    from align.config.load import Loaded
    from align.config.recipe import Annotate, Evaluate, FunctionJudge, Model, PeopleJudge, Prompts, Recipe
    from align.config.rollouts import Engine, Rollouts
    from align.config.training import BestOfN, Dpo, Grpo, Kto, Lora, Ppo, RewardModel, Rloo, Sft
    from align.data.demonstrations import Demonstration
    from align.data.mixture import replayed
    from align.data.prompts import held_out_prompts, prompts_of_round
    from align.errors import AlignError, ConfigError, DataError, ServiceError, StageError
    from align.labelling.outside.load import Imported, load_judgements
    from align.types import BinaryLabel, Candidate, Dropped, Edit, Judgement, Message, Preference, Prompt, Task
    from annotation import AnnotationBackend, Answer, MemoryBackend
    from reward import Scorer
    from rollouts import Generator

__version__ = "0.1.0"

_HOMES = {
    "align.api.runs": "RunResult load_recipe require_sections run",
    "align.api.given": "Compute Estimate Evaluation Labelled Labels Rows Samples Trained Workspace",
    "align.api.files": "load_binary load_candidates load_demonstrations load_preferences load_prompts",
    "align.api.scorers": "load_scorer",
    "align.api.answers": "evaluate sample",
    "align.api.labels": "ask compare_blind compile_labels",
    "align.api.training": "import_model train_best_of_n train_dpo train_grpo train_kto train_ppo train_reward"
    " train_rloo train_sft",
    "align.data.prompts": "held_out_prompts prompts_of_round",
    "align.data.mixture": "replayed",
    "align.data.demonstrations": "Demonstration",
    "align.types": "Candidate Dropped Edit Judgement Message Preference Prompt Task BinaryLabel",
    "align.labelling.outside.load": "Imported load_judgements",
    "align.errors": "AlignError ConfigError DataError ServiceError StageError",
    "align.config.recipe": "Annotate Evaluate FunctionJudge Model PeopleJudge Prompts Recipe",
    "align.config.rollouts": "Engine Rollouts",
    "align.config.training": "BestOfN Dpo Grpo Kto Lora Ppo RewardModel Rloo Sft",
    "annotation": "AnnotationBackend Answer MemoryBackend",
    "rollouts": "Generator",
    "reward": "Scorer",
    "align.config.load": "Loaded",
}

__all__ = [
    "AlignError",
    "Annotate",
    "AnnotationBackend",
    "Answer",
    "BestOfN",
    "BinaryLabel",
    "Candidate",
    "Compute",
    "ConfigError",
    "DataError",
    "Demonstration",
    "Dpo",
    "Dropped",
    "Edit",
    "Engine",
    "Estimate",
    "Evaluate",
    "Evaluation",
    "FunctionJudge",
    "Generator",
    "Grpo",
    "Imported",
    "Judgement",
    "Kto",
    "Labelled",
    "Labels",
    "Loaded",
    "Lora",
    "MemoryBackend",
    "Message",
    "Model",
    "PeopleJudge",
    "Ppo",
    "Preference",
    "Prompt",
    "Prompts",
    "Recipe",
    "RewardModel",
    "Rloo",
    "Rollouts",
    "Rows",
    "RunResult",
    "Samples",
    "Scorer",
    "ServiceError",
    "Sft",
    "StageError",
    "Task",
    "Trained",
    "Workspace",
    "ask",
    "compare_blind",
    "compile_labels",
    "evaluate",
    "held_out_prompts",
    "import_model",
    "load_binary",
    "load_candidates",
    "load_demonstrations",
    "load_judgements",
    "load_preferences",
    "load_prompts",
    "load_recipe",
    "load_scorer",
    "prompts_of_round",
    "replayed",
    "require_sections",
    "run",
    "sample",
    "train_best_of_n",
    "train_dpo",
    "train_grpo",
    "train_kto",
    "train_ppo",
    "train_reward",
    "train_rloo",
    "train_sft",
]

__getattr__, __dir__ = lazily(__name__, {name: home for home, names in _HOMES.items() for name in names.split()})
