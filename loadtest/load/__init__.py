"""Load with Locust: visitors that book as people do, shapes of their coming, and the truth of what they were told.

It speaks HTTP to whatever HOST is, and knows nothing of the service's insides. Only `users`, `shapes`, `options` and
`run` may import Locust, which changes the standard library of its process.
"""
