//! A device that follows the guide: the fake device of `loadtest`, blocking.

use std::{sync::Arc, time::Duration};

use loadtest::{
    Device as Fake, Error, Kill, Options, Resumption, Security, Session, Trust, event::Pushed, record::Record, sasl::Password,
    session::Managed, xml::Element,
};
use serde_json::Value;

use super::{SOON, Service, Wire, block_on};

/// What tests ask of an event beside its fields.
pub trait Event {
    /// The CloudEvent.
    fn cloud_event(&self) -> Value;
    /// Its `data`.
    fn data(&self) -> Value {
        self.cloud_event()["data"].clone()
    }
}

impl Event for Pushed {
    fn cloud_event(&self) -> Value {
        serde_json::from_str(&self.json).expect("CloudEvents JSON")
    }
}

pub struct Device(Fake);

impl Device {
    /// A well-behaved device over direct TLS.
    pub fn options(service: &Service, id: &str, password: &str) -> Options {
        let trust = Trust::ca_file(&service.ca()).expect("ca.pem");
        let password = Arc::new(Password::new(password));
        Options::new(service.xmpps, Security::Tls(trust), "localhost", id, password)
    }

    pub fn connect(options: Options) -> Result<Self, Error> {
        block_on(Fake::connect(options)).map(Self)
    }

    /// Logs in, binds, enables resumption and sends presence.
    #[track_caller]
    pub fn online(service: &Service, id: &str, password: &str) -> Self {
        Self::connect(Self::options(service, id, password)).unwrap_or_else(|error| panic!("{id}: {error}"))
    }

    /// A connection on which the device is logged in and not bound.
    #[track_caller]
    pub fn logged_in(service: &Service, id: &str, password: &str) -> Wire {
        Wire::of(block_on(Session::authenticate(Arc::new(Self::options(service, id, password)))).unwrap())
    }

    /// A connection on which the device is bound, with stream management and without presence.
    #[track_caller]
    pub fn bound(service: &Service, id: &str, password: &str) -> Wire {
        let options = Options {
            presence: None,
            ..Self::options(service, id, password)
        };
        Wire::of(block_on(Session::log_in(Arc::new(options))).unwrap())
    }

    /// Tries to go on with a session that may be another's. True: it was resumed.
    pub fn steals(options: Options, managed: Managed) -> Result<bool, Error> {
        let jid = options.bare_jid();
        block_on(Session::resume(Arc::new(options), managed, jid)).map(|(_, resumed)| resumed)
    }

    /// The next event that was applied; `None` when none came within that time.
    pub fn event(&self, within: Duration) -> Option<Pushed> {
        block_on(self.0.next_event(within)).ok()
    }

    /// The next event, which must come.
    #[track_caller]
    pub fn expect_event(&self) -> Pushed {
        self.event(SOON).expect("an event")
    }

    /// Sends `<a/>` for all that was handled.
    pub fn acknowledge(&self) {
        block_on(self.0.acknowledge()).expect("connected");
    }

    /// Sends the receipt of XEP-0184.
    pub fn received(&self, event: &Pushed) {
        let id = &event.id;
        let receipt = format!("<message to='localhost' id='r-{id}'><received xmlns='urn:xmpp:receipts' id='{id}'/></message>");
        block_on(self.0.send_stanza(receipt)).expect("connected");
    }

    /// Sends a stanza and gives the next that is no event.
    #[track_caller]
    pub fn answer_to(&self, stanza: &str) -> Element {
        block_on(self.0.send_stanza(stanza)).expect("connected");
        block_on(self.0.next_stanza(SOON)).unwrap_or_else(|error| panic!("{stanza}: {error}"))
    }

    /// The stream management of the session.
    pub fn managed(&self) -> Managed {
        block_on(self.0.managed()).expect("connected").expect("stream management")
    }

    pub fn kill(&mut self, how: Kill) {
        block_on(self.0.kill(how));
    }

    pub fn resume(&mut self) -> Result<Resumption, Error> {
        block_on(self.0.resume())
    }

    pub fn reconnect(&mut self) -> Result<(), Error> {
        block_on(self.0.reconnect())
    }

    pub fn is_connected(&self) -> bool {
        self.0.is_connected()
    }

    /// How the session ended, which it must soon.
    #[track_caller]
    pub fn ended(&mut self) -> Error {
        block_on(self.0.ended(SOON)).expect("the session ends")
    }

    /// All it ever applied, and every fault of order.
    pub fn record(&self) -> &Record {
        self.0.record()
    }

    /// Ends the stream in good order.
    #[track_caller]
    pub fn close(mut self) {
        block_on(self.0.close()).expect("the server ends its side");
    }
}
