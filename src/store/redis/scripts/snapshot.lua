-- Everything of a device at one moment: KEYS device, seat, queue, states, tokens, reported.
local function row(key) return call('GET', key) or '' end
return {row(KEYS[1]), row(KEYS[2]), call('HGETALL', KEYS[3]), call('HGETALL', KEYS[4]), row(KEYS[5]), row(KEYS[6])}
