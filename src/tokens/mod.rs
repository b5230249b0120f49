//! Device tokens: a JWT (RFC 7519) that an issuer of the operator's gave a device, instead of a password.
//!
//! A token is checked by the issuer's public keys alone, without the store and without asking anybody: what the keys are is
//! kept by [`Keeper`], from a file or a JWKS (RFC 7517). The rules are those of RFC 8725: the algorithms are the operator's
//! choice and never symmetric, issuer and audience must be right, and a key is used with one algorithm only. Keys or
//! addresses that a token brings itself (`jwk`, `jku`, `x5u`) are not looked at.

mod check;
mod config;
mod keeper;
mod keys;
mod metrics;

pub use check::{TokenError, Tokens, Valid};
pub use config::{Algorithm, Config};
pub use keeper::{Keeper, KeysError};

#[cfg(test)]
mod tests;
