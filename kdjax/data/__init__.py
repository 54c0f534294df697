"""Data: sources (what there is), batches (in which order), augment and views (as seen)."""
