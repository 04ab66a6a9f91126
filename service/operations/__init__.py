"""Use cases, one a file: what the service does, said in the order it happens.

Promises: only an operation knows both the gate and the record, so claim, commit and settle can be read in one
function. Refuses to know: how a request arrived or an answer leaves.
"""
