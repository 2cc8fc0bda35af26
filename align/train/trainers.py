"""TRL 1.16's trainers with the few methods that we replace. Imports torch and TRL: import it inside functions only.

Replaced: the sampler (batches of similar length, in an order that a resumed run repeats), telemetry and model cards
(none). `test_train_contract.py` fails when TRL moves one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from trl import SFTTrainer

from align.errors import ConfigError
from align.train.order import DistributedBatchSampler, LengthGrouped


class Ours:
    """What all trainers on rows change; `row_lengths` switches the length-grouped order on."""

    row_lengths: Sequence[int] | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.row_lengths is None:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        args = self.args  # type: ignore[attr-defined]
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGrouped(self.row_lengths, rows, args.seed)

    def get_train_dataloader(self: Any) -> Any:
        """Several processes see at each step the rows of one that trains alone; accelerate would deal out others."""
        args, data = self.args, self.train_dataset
        if args.world_size == 1:
            return super().get_train_dataloader()  # type: ignore[misc]
        if self.row_lengths is None:
            what = "`trainer.train_sampling_strategy` cannot act in several processes"
            raise ConfigError(what, hint="leave it out: batches are of similar length")
        shares = DistributedBatchSampler(
            self._get_train_sampler(),
            batch=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            micro=args.train_batch_size,
            rank=args.process_index,
            processes=args.world_size,
            padding=len(data),
        )
        loader = DataLoader(
            WithPaddingRows(data, self.padding_row(data[0])), batch_sampler=shares, collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
        )  # fmt: skip
        ready = prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )
        self.accelerator._dataloaders.append(ready)
        return ready

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine unasked."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A stage's receipt says where a checkpoint comes from; TRL's card would carry paths of this machine."""


def require_columns(data: Any, names: Sequence[str], which: str) -> Any:
    """The data set itself; ValueError where it lacks one of these columns."""
    missing = [name for name in names if name not in data.column_names]
    if missing:
        raise ValueError(f"the {which} data set lacks the columns {missing}")
    return data


class WithPaddingRows:
    """A data set with one more row behind its own."""

    def __init__(self, data: Any, padding: dict[str, Any]) -> None:
        self.data, self.padding = data, padding

    def __len__(self) -> int:
        return len(self.data) + 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        found: dict[str, Any] = self.data[row] if row < len(self.data) else self.padding
        return found


class Sft(Ours, SFTTrainer):
    def padding_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row that counts nothing: no token is learned."""
        one = {name: [1] for name in ("lengths",) if name in row}  # of a pack
        return {**row, "input_ids": row["input_ids"][:1], "labels": [-100], **one}
