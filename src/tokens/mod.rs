//! Tokens: a JWT (RFC 7519) that an issuer of the operator's gave a device, instead of a password, or a backend, instead of an API key.
//!
//! A token is checked by the issuer's public keys alone, without the store and without asking anybody: what the keys are is
//! kept by [`Keeper`], from a file or a JWKS (RFC 7517). The rules are those of RFC 8725: the algorithms are the operator's
//! choice and never symmetric, issuer and audience must be right, and a key is used with one algorithm only. Keys or
//! addresses that a token brings itself (`jwk`, `jku`, `x5u`) are not looked at.

mod backend;
mod check;
mod config;
mod keeper;
mod keys;
mod metrics;
mod verifier;

pub use backend::{BackendConfig, BackendTokens, Bearer};
pub use check::{TenantNamed, Tokens, Valid};
pub use config::{Algorithm, Config};
pub use keeper::{Keeper, KeysError};
pub use verifier::TokenError;

#[cfg(test)]
mod tests;
