//! A model test.
