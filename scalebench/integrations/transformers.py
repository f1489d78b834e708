"""transformers' Trainer, measured by a callback."""

from __future__ import annotations

from typing import Any

from scalebench.integrations.recorder import Recorder

NAMED = "transformers_trainer"


def transformers_callback(*, stop: bool = False, **given: Any) -> Any:
    """A TrainerCallback that records the training of a Trainer as a run.

    A Trainer tells its callbacks no loss per step, so none is recorded.

    Args:
        stop: end the training when enough was measured.
        given: arguments of Recorder, which go before what the Trainer's arguments say (micro-batch, accumulation,
            precision, clipping).
    """
    from transformers import TrainerCallback

    class RecorderCallback(TrainerCallback):
        """Times the steps of a Trainer by a scalebench.Recorder."""

        def __init__(self) -> None:
            self._recorder: Recorder | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            settings = {"named": NAMED, **said_by(args), **given}
            self._recorder = Recorder(kwargs["model"], kwargs.get("optimizer"), **settings)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._recorder is not None:
                self._recorder.step()
                control.should_training_stop |= stop and self._recorder.done

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._recorder is not None:
                self._recorder.close()

    return RecorderCallback()


def said_by(args: Any) -> dict[str, Any]:
    """What a Trainer's arguments say of its run, as fields of a spec."""
    return {
        "micro_batch": args.per_device_train_batch_size,
        "accumulation": args.gradient_accumulation_steps,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "clip_norm": args.max_grad_norm or None,
        "num_workers": args.dataloader_num_workers,
    }
