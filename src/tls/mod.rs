//! TLS of all listeners, in one place: what they offer, with which certificate, and how that changes while they serve. Who asks for
//! the domain of a tenant is shown the certificate for it.
//!
//! A connection takes the [`Served`] of the moment and keeps it, so that it knows for all its life which certificate it
//! handshook with. [`Keeper`] looks at the files again and puts the next [`Served`] in place; connections that are up notice
//! nothing. Tickets die with the certificate they were given under: who comes back sees the new one. Nodes that share the secrets of
//! their tickets ([`TicketSecrets`]) take one another's.

mod clients;
mod config;
mod end_point;
pub mod exporter;
mod keeper;
mod names;
mod served;
mod tickets;

pub use clients::{ClientCertificate, ClientFiles, Clients};
pub use config::{Config, Pair};
pub use keeper::{Domains, Files, Keeper, Reload, Source, TlsError};
pub use names::take_chosen;
pub use served::{Current, Served};
pub use tickets::{TICKET_PERIOD, TicketSecret, TicketSecrets};
