"""What a rank holds and what it computes twice: save or recompute, tiles, and the peak of memory."""
