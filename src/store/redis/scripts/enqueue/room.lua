if events - less >= events_max or bytes - freed + size > bytes_max then return '\4' .. pack('>I4I6', events, bytes) end

