"""A user's own training loop measured as ours is: the Recorder, and callbacks of Lightning's and transformers'
Trainers (docs/own-model.md)."""
