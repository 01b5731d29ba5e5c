"""Private names of torch, transformers and DeepSpeed: everything of theirs that no release promises to keep.

`compat.torch`, `compat.transformers` and `compat.deepspeed` name each for what it means here, and no other module of
autosp uses a private name (`tests/compat` reads every file for one). Where releases differ, they differ in here.
"""
