"""Load on a running installation: `load` is for people who ask whether it holds, with Locust."""
