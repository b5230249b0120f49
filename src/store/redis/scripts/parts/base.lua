-- What scripts begin with. Layouts of records are in seat.rs, record.rs and device.rs; positions here count from 1. Arguments that belong
-- together come as one text, and numbers of six bytes: what costs most in a script is to hand it arguments.
local call, sub, byte, char = redis.call, string.sub, string.byte, string.char
local pack, unpack = struct.pack, struct.unpack
local function u48(s, at) return (unpack('>I6', s, at)) end
local function p48(n) return pack('>I6', n) end
