#!lua
-- Accept an incoming event once: a repeat is recognised and not enqueued again.
--
-- KEYS[1]  string  mark of the event's identity
-- KEYS[2]  stream  incoming events
-- KEYS[3]  set     events on their way in it
-- ARGV[1]  how long the identity is remembered, ms
-- ARGV[2]  the event, as the worker reads it
--
-- Reply: [outcome]
--   accepted   the event is in the stream
--   duplicate  it was accepted before

if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then return { 'duplicate' } end
if redis.call('SADD', KEYS[3], ARGV[2]) == 1 then
  redis.call('XADD', KEYS[2], '*', 'event', ARGV[2], 'attempt', '1')
end
return { 'accepted' }
