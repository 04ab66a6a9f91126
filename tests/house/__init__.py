"""Promises about the repository itself: what is committed, shipped, pinned and composed."""
