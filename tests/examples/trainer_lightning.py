"""Lightning's Trainer with a module and data of one's own; one callback is added."""

import sys

import lightning as L
from lit import both

import scalebench


def main(results):
    module, data = both(samples=2048)
    recorder = scalebench.lightning_callback(
        results=results, warmup_steps=5, steps=20, target_precision=None, max_seconds=None, stop=True
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=10,
        callbacks=[recorder],
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    main(sys.argv[1])
