
-- The seat record: version 1, number 6, seqs 4 x 6, epoch 6, last seen 6, due 6, later 2, now 6, ordinal 4 (0: ask the
-- row); then, while it is held, the seat.
local EMPTY = '\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
