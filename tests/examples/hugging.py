"""A model of transformers, made from a configuration: nothing here knows of scalebench."""

from transformers import GPT2Config, GPT2LMHeadModel


def small_gpt2(layers: int = 2, width: int = 32):
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=2, n_positions=64, vocab_size=260)
    return GPT2LMHeadModel(config)
