//! One segment of a path as a handler takes it.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use crate::domain::{DeviceId, Refusal};

/// The only parameter of a path, percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment(pub String);

impl Segment {
    /// The device that the path names.
    ///
    /// # Errors
    /// `InvalidDeviceId`.
    pub fn device(self) -> Result<DeviceId, Refusal> {
        self.0.parse().map_err(|why| Refusal::InvalidDeviceId { text: self.0, why })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            // A path that is not UTF-8 after percent-decoding.
            Err(_) => Err(Refusal::UnknownPath(parts.uri.path().to_owned())),
        }
    }
}
