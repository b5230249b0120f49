//! A connection to the XMPP endpoint on which a test says exactly what it wants to say.

use std::{net::SocketAddr, path::Path, time::Duration};

use loadtest::{Error, Raw, Session, Trust};

use super::{SOON, block_on};

pub const STREAM_HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>";

pub struct Wire(Raw);

impl Wire {
    /// TCP only: for STARTTLS, and for bad input before TLS.
    pub fn plain(address: SocketAddr) -> Self {
        Self(block_on(Raw::connect(address, None)).expect("connects"))
    }

    /// Direct TLS (XEP-0368), verified against the certificate authority in `ca`.
    pub fn tls(address: SocketAddr, ca: &Path) -> Self {
        let trust = Trust::ca_file(ca).expect("ca.pem");
        Self(block_on(Raw::connect(address, Some((&trust, "localhost")))).expect("connects with TLS"))
    }

    /// Goes on by hand where `session` has got to.
    pub fn of(session: Session) -> Self {
        Self(session.into())
    }

    /// Opens a stream and reads its features.
    #[track_caller]
    pub fn open(mut self) -> Self {
        self.send(STREAM_HEADER);
        self.until("</stream:features>");
        self
    }

    /// Sends, and panics when the peer does not take it.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.try_send(text.as_bytes()).expect("the server takes what is sent");
    }

    /// Sends bytes; an error means that the peer closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        block_on(self.0.send(bytes))
    }

    /// Everything until `wanted` has come, which it must; `"` are given as `'`.
    #[track_caller]
    pub fn until(&mut self, wanted: &str) -> String {
        let read = block_on(self.0.read_until(wanted, SOON));
        let Ok(text) = read else {
            panic!("{read:?}; unread: {:?}", self.0.held())
        };
        text.replace('"', "'")
    }

    /// Everything until the peer closes, which it must within that time; `"` are given as `'`.
    #[track_caller]
    pub fn until_closed(&mut self, within: Duration) -> String {
        let read = block_on(self.0.read_to_end(within));
        let Ok(text) = read else {
            panic!("{read:?}; unread: {:?}", self.0.held())
        };
        text.replace('"', "'")
    }
}
