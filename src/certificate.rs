//! The certificate: loaded from files, or made and kept in the data directory.
