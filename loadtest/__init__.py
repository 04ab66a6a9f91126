"""Loads on the service: `bench` measures it against goals, for numbers that compare; `load` is for people who ask
whether it holds and whether what it says is true.
"""
