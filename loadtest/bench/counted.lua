-- What a script ends with that asks as fast as it can: the run's counts as one line of JSON.

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nCOUNTED {"requests":%d,"refused":%d,"broken":%d,"microseconds":%d,"p50":%d,"p99":%d}\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write, summary.duration,
    latency:percentile(50), latency:percentile(99)))
end
