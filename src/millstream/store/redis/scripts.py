"""The scripts by which a shard is written: each compares and writes in one step, of which others see all or nothing.

A server that is given a script carries it out alone, and repeats what it wrote, not the script, in its append-only file and
to its replicas, as one transaction. So whatever it loses with its last second, or in a failover, a shard is as it was at
some moment before.

Each takes the key of one shard, and returns what was refused: nothing, the places of keys, or the text that begins with
"at" and tells the position that the shard has instead, or the one that is pending.
"""

from __future__ import annotations

import hashlib


class Script:
    """A script, and the name that a server has for it."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.name = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def call(self, key: bytes, *arguments: bytes) -> tuple[bytes, ...]:
        """Return the command that runs it on a shard."""
        return (b"EVALSHA", self.name, b"1", key, *arguments)


_REFUSED = """
local function refused(at)
    local refused = {}
    local fields = {}
    for place = at, #ARGV, 2 do fields[#fields + 1] = ARGV[place] end
    local held = #fields > 0 and redis.call('HMGET', KEYS[1], unpack(fields)) or {}
    for place, record in ipairs(held) do
        if record and string.sub(record, 9, 16) == ARGV[4] then refused[#refused + 1] = place - 1 end
    end
    return refused
end

local function put(at, refused)
    local fields, without = {}, {}
    for _, place in ipairs(refused) do without[at + 2 * place] = true end
    for place = at, #ARGV, 2 do
        if not without[place] then
            fields[#fields + 1] = ARGV[place]
            fields[#fields + 1] = ARGV[place + 1]
        end
    end
    if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
end
"""

WRITE = Script(
    _REFUSED
    + """
-- ARGV: position expected ('' where there is no shard), its meta, position after, that as it heads a value, then values.
local held = redis.call('HMGET', KEYS[1], 'p', 'w')
if (held[1] or '') ~= ARGV[1] then return 'at ' .. (held[1] or '') end
local ahead = {}
if held[2] then
    local pending = string.match(held[2], '^(%S+)')
    if pending ~= ARGV[3] then return 'at ' .. pending end
    ahead = refused(5)
    if #ahead > 0 then
        put(5, ahead)
        return ahead
    end
end
redis.call('HSET', KEYS[1], 'p', ARGV[3], 'm', ARGV[2], unpack(ARGV, 5))
if held[2] then redis.call('HDEL', KEYS[1], 'n', 'w') end
return ahead
"""
)
"""Writes some values and the meta, unless a key is ahead already; then the others, and the meta stays."""

ANNOUNCE = Script("""
-- ARGV: position expected, meta that is to be pending, its position, who writes.
local held = redis.call('HMGET', KEYS[1], 'p', 'w')
if (held[1] or '') ~= ARGV[1] then return 'at ' .. (held[1] or '') end
local begun = ''
if held[2] then
    local pending = string.match(held[2], '^(%S+)')
    if pending ~= ARGV[3] then return 'at ' .. pending end
    begun = ' begun'
end
if not held[1] then redis.call('HSET', KEYS[1], 'p', '-1') end
redis.call('HSET', KEYS[1], 'n', ARGV[2], 'w', ARGV[3] .. ' ' .. ARGV[4] .. begun)
return {}
""")
"""Makes a meta pending; who announced the same before is written no more for, and may have written some of it."""

CHUNK = Script(
    _REFUSED
    + """
-- ARGV: position expected, who writes, position after, that as it heads a value, then values.
local held = redis.call('HMGET', KEYS[1], 'p', 'w')
local pending, writer, begun = string.match(held[2] or '', '^(%S+) (%S+)(.*)$')
if held[1] ~= ARGV[1] then return 'at ' .. (held[1] or '') end
if pending ~= ARGV[3] or writer ~= ARGV[2] then return 'at ' .. (pending or held[1]) end
local ahead = {}
if begun ~= '' then ahead = refused(5) end
put(5, ahead)
return ahead
"""
)
"""Writes some of the values that were announced, but those that are ahead already."""

FINISH = Script("""
-- ARGV: position expected, who writes, position after, its meta.
local held = redis.call('HMGET', KEYS[1], 'p', 'w')
local pending, writer = string.match(held[2] or '', '^(%S+) (%S+)')
if held[1] ~= ARGV[1] then return 'at ' .. (held[1] or '') end
if pending ~= ARGV[3] or writer ~= ARGV[2] then return 'at ' .. (pending or held[1]) end
redis.call('HSET', KEYS[1], 'p', ARGV[3], 'm', ARGV[4])
redis.call('HDEL', KEYS[1], 'n', 'w')
return {}
""")
"""Makes the pending meta that of the shard."""

LOAD = Script("""
-- ARGV: position expected, then values.
local at = redis.call('HGET', KEYS[1], 'p')
if (at or '') ~= ARGV[1] then return 'at ' .. (at or '') end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return {}
""")
"""Writes some of the values of a shard that nobody reads yet."""

FORGET = Script("""
-- ARGV: position expected, then keys.
local held = redis.call('HMGET', KEYS[1], 'p', 'w')
if held[1] ~= ARGV[1] then return 'at ' .. (held[1] or '') end
if held[2] then return 'at ' .. string.match(held[2], '^(%S+)') end
redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
return {}
""")
"""Removes some keys, unless something is being written."""

SCRIPTS = (WRITE, ANNOUNCE, CHUNK, FINISH, LOAD, FORGET)
