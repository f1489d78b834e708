"""transformers' Trainer with a small GPT-2; one callback is added."""

import sys

import torch
import transformers
from hugging import small_gpt2

import scalebench


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        tokens = (torch.arange(16) + index) % 260
        return {"input_ids": tokens, "labels": tokens}


def main(results):
    arguments = transformers.TrainingArguments(
        output_dir=f"{results}/checkpoints",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=60,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    recorder = scalebench.transformers_callback(
        results=results, item="token", items_per_sample=16, steps=20, warmup_steps=5, target_precision=None,
        max_seconds=None,
    )  # fmt: skip
    transformers.Trainer(small_gpt2(), arguments, train_dataset=Tokens(), callbacks=[recorder]).train()


if __name__ == "__main__":
    main(sys.argv[1])
