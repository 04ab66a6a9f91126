"""Loads that show how fast the service is: `bench` measures it against goals, for numbers that compare."""
