"""A causal language model of transformers, from its configuration class: nothing is downloaded.

Trained on the same tokens as `gpt`, by the mean cross-entropy of the next one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from scalebench.adapters import BLOCKS, CONTEXT, OWN_DATA, Scalar
from scalebench.adapters.importing import told
from scalebench.adapters.own import OwnWorkload
from scalebench.adapters.root import Root
from scalebench.data import STDLIB
from scalebench.data.tokens import open_tokens
from scalebench.errors import UserError
from scalebench.strategies.base import Batch, Task

LONGEST = 1024
"""Tokens of a sample unless asked otherwise, where the model takes as many."""


class CausalRoot(Root):
    """Logits of a causal language model and their loss."""

    def run(self, batch: Batch, task: Task) -> tuple[Tensor, Mapping[str, Tensor]]:
        logits = self.model(input_ids=batch["tokens"], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten()), {}


def adapted(name: str, made: Any, options: Mapping[str, Scalar], seed: int) -> OwnWorkload | None:
    """The workload of a transformers configuration, or of a model; None when `made` is neither."""
    transformers: Any = sys.modules.get("transformers")
    if transformers is None or not isinstance(made, (_config_class(transformers), transformers.PreTrainedModel)):
        return None
    model = _model(name, transformers, made)
    context = _context_length(model.config, options)
    vocabulary = int(model.config.get_text_config().vocab_size)
    given = options.get(BLOCKS)
    return OwnWorkload(
        name=name,
        root=CausalRoot(model),
        open_samples=lambda data, seed: open_tokens(
            STDLIB if data == OWN_DATA else data, seed=seed, context_length=context, vocab_size=vocabulary
        ),
        blocks=None if given is None else str(given),
        item="token",
        items_per_sample=context,
    )


def _config_class(transformers: Any) -> Any:
    """Its base class of configurations, by its name since version 5 and before."""
    return getattr(transformers, "PreTrainedConfig", None) or transformers.PretrainedConfig


def _model(name: str, transformers: Any, made: Any) -> Any:
    """The causal language model in fp32, with its own random values."""
    if isinstance(made, transformers.PreTrainedModel):
        if not made.can_generate() or made.config.is_encoder_decoder:
            raise UserError(
                f"{name} returned a {type(made).__name__} without data, and text is for causal language models alone. "
                "Return (model, dataset), its samples dicts of the model's arguments, labels among them."
            )
        return made.float()
    if type(made) not in transformers.AutoModelForCausalLM._model_mapping:
        raise UserError(f"{name}: transformers has no causal language model for {type(made).__name__}.")
    with told(name):
        return transformers.AutoModelForCausalLM.from_config(made).float()


def _context_length(config: Any, options: Mapping[str, Scalar]) -> int:
    """Tokens per sample, no more than the model has positions for."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    asked = options.get(CONTEXT)
    if asked is None:
        return min(LONGEST, most or LONGEST)
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= (most or asked):
        raise UserError(f"workload.{CONTEXT} is {asked!r}; give a whole number from 1 to {most or 'any'}.")
    return asked
