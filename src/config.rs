//! The settings file: one field for each part's own `Config`.
