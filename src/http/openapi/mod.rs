//! The HTTP interface describes itself: OpenAPI 3.1, its page, and the page of each problem.
//!
//! A part describes its routes beside them, as [`Operation`]s; `app` puts all of them into one [`Document`], and
//! [`routes()`] serves it. Schemas are closed, so an answer with a member that is not described is a fault that tests find.
//!
//! What is deliberately absent: any say in what a handler takes. Handlers parse by hand, and tests hold them to the document.

mod document;
mod html;
mod operation;
mod pages;
mod reference;
mod routes;
mod schema;

pub use document::Document;
pub use operation::{Access, Answer, Operation, READS_JSON, READS_LINES};
pub use reference::reference;
pub use routes::{operations, routes};
pub use schema::{Schema, device_id, event_id, require, urgency};
