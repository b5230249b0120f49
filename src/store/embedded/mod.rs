//! The embedded engine: fjall on local disk.
