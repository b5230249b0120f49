//! The stream during a login, where one side speaks after the other.

use futures_util::{SinkExt, StreamExt};
use tokio_xmpp::xmlstream::ReadError;
use xmpp_parsers::{minidom::Element, ns};

use super::{login::Stream, trouble::Trouble};

/// Elements that may come where another is awaited.
const STRAYS_MAX: usize = 16;

/// What makes no sense there.
pub fn broken(what: impl ToString) -> Trouble {
    Trouble::Protocol(what.to_string())
}

/// A stream on which one side speaks after the other.
pub struct Talk(pub Stream);

impl Talk {
    /// Sends one element.
    pub async fn send(&mut self, element: impl Into<Element>) -> Result<(), Trouble> {
        Ok(self.0.send(&element.into()).await?)
    }

    /// What the server says next; an error of the stream is one.
    pub async fn next(&mut self) -> Result<Element, Trouble> {
        match self.0.next().await {
            None => Err(Trouble::Closed),
            Some(Err(ReadError::ParseError(error))) => Err(broken(error)),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(element)) if element.is("error", ns::STREAM) => Err(Trouble::stream(element)),
            Some(Ok(element)) => Ok(element),
        }
    }

    /// The features, which come next.
    pub async fn features(&mut self) -> Result<Element, Trouble> {
        let element = self.next().await?;
        if element.is("features", ns::STREAM) {
            Ok(element)
        } else {
            Err(broken(format!("<{}/> instead of features", element.name())))
        }
    }

    /// Waits for one element and passes over some others.
    pub async fn awaited(&mut self, is_it: impl Fn(&Element) -> bool) -> Result<Element, Trouble> {
        for _ in 0..STRAYS_MAX {
            let element = self.next().await?;
            if is_it(&element) {
                return Ok(element);
            }
        }
        Err(broken("no answer during the login"))
    }
}
