"""TRL's online trainers. TRL imports vLLM with them, for engines that we do not use; that takes three seconds, so it is
told that there is none. Imports torch."""

from trl import import_utils

_is_available = import_utils.is_vllm_available
import_utils.is_vllm_available = lambda min_version=None: False
try:
    from trl import GRPOTrainer, RLOOTrainer
finally:
    import_utils.is_vllm_available = _is_available

__all__ = ["GRPOTrainer", "RLOOTrainer"]
