//! Composition root: bind, run, drain. It knows every part; no part knows it.
