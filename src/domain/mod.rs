//! Our vocabulary: the words of the service as types. Imports nothing of the other parts.
//!
//! Everything is parsed once, at the edge, into these types; from there on `==` is identity and a value is valid.

mod audit;
mod caller;
mod clock;
mod credential;
mod departure;
mod event;
mod event_id;
mod explained;
mod fast;
mod filter;
mod gap;
mod group;
mod hash;
mod lane;
mod limits;
mod meter;
mod name;
mod outcome;
mod poll;
mod rate;
mod refusal;
mod reported;
mod signal;
mod state;

pub use audit::{Actor, AuditEntry, AuditOutcome};
pub use caller::{Caller, CallerLimits, Scope};
pub use clock::{Clock, CorrectedClock, ManualClock, SystemClock, Timestamp};
pub use credential::{CertificatePin, Credential, Password, ScramSecret, ScramVerifier};
pub use departure::Departure;
pub use event::{Data, Durability, Event, Require, Urgency};
pub use event_id::{EventId, EventIdKey, Located, Queue};
pub use explained::{Explained, explained};
pub use fast::{FastAgent, FastChange, FastMechanism, FastProof, FastToken, FastTokens};
pub use filter::{Facts, Filter, FilterBounds, InvalidFilter};
pub use gap::{Gap, Missing, ReceiptCursor};
pub use group::{CopyOf, GROUP_DEVICES_MAX, GroupPlace, Target, given_collapse_key};
pub use hash::{sha256, stable_hash, stable_hash_of};
pub use lane::{Generation, Lane, Seq};
pub use limits::{DeviceLimits, Limits};
pub use meter::{Account, Direction, Meter, Overhead, Polling, Uncredited};
pub use name::{Cohort, DeviceId, InvalidName, TenantId, UserId, is_domain};
pub use outcome::{Outcome, OutcomeFields, Status, Told};
pub use poll::{Carried, Exchange, PollMeter, PollResult, Polled, Poller};
pub use rate::{Allowance, Bucket, RateLimit, Share};
pub use refusal::{Face, Refusal};
pub use reported::{Location, Report, Reported, reported_attributes};
pub use signal::{DeviceSignal, SessionId};
pub use state::{DeliveryState, Epoch, Reason};
