"""The benchmark: how fast the service is beside what it is made of, measured in one run on one machine.

Promises that every figure is a ratio of things measured close together, on servers with fsync on, and that each
booking that was counted is in Postgres. Knows the service from outside: its commands, its HTTP, its tables.
"""
