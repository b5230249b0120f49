-- What all functions use. Layouts of records are in seat.rs, record.rs and device.rs; positions here count from 1. Arguments that belong
-- together come as one text, and numbers of six bytes: what costs most is to hand
-- a function arguments.
--
-- A library is loaded without what its functions find when they run: the first one that runs looks for it.
local call, sub, byte, char, pack, unpack
local function begin()
  call, sub, byte, char = redis.call, string.sub, string.byte, string.char
  pack, unpack = struct.pack, struct.unpack
end
local function u48(s, at) return (unpack('>I6', s, at)) end
local function p48(n) return pack('>I6', n) end
