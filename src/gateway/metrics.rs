//! What the doors count.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{domain::Departure, store::Transport};

/// What happened to a session; the labels `event` and `reason` of `unpoll_session_events_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// Bound anew.
    Connected,
    /// Resumed after its connection was lost.
    Resumed,
    /// Resumed while its old connection was still open.
    ResumedElsewhere,
    /// A newer connection took the seat.
    TakenOver,
    /// Ended or was interrupted, for that reason.
    Closed(Reason),
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `</stream:stream>`, or a stream error of ours about what the device sent.
    Stream,
    /// The peer closed or reset the connection.
    Lost,
    /// No sign of life, or no acknowledgement, in time.
    Silent,
    /// It lived as long as connections do.
    Old,
    /// It took no bytes for too long, or TCP gave up.
    Stalled,
    /// Replaced by a newer connection.
    Conflict,
    /// The node stops.
    Shutdown,
    /// The device was removed.
    Removed,
    /// TLS failed.
    Tls,
    /// No room for the session.
    Full,
    /// The time to resume it is over.
    Expired,
    /// A bug.
    Bug,
}

impl Reason {
    const ALL: [Self; 12] = [
        Self::Old,
        Self::Stream,
        Self::Lost,
        Self::Silent,
        Self::Stalled,
        Self::Conflict,
        Self::Shutdown,
        Self::Removed,
        Self::Tls,
        Self::Full,
        Self::Expired,
        Self::Bug,
    ];

    /// What the feed of presence is told of a session that ends so.
    pub fn departure(self) -> Departure {
        match self {
            Self::Stream => Departure::Stream,
            Self::Lost => Departure::Lost,
            Self::Silent => Departure::Silent,
            Self::Old => Departure::Old,
            Self::Stalled => Departure::Stalled,
            Self::Conflict => Departure::Conflict,
            Self::Shutdown => Departure::Shutdown,
            Self::Removed => Departure::Removed,
            Self::Tls => Departure::Tls,
            Self::Full => Departure::Full,
            Self::Expired => Departure::Expired,
            Self::Bug => Departure::Bug,
        }
    }

    /// The label: the word that the feed of presence has for it.
    pub fn as_str(self) -> &'static str {
        self.departure().as_str()
    }
}

impl SessionEvent {
    fn labels(self) -> [&'static str; 2] {
        match self {
            Self::Connected => ["connect", "bind"],
            Self::Resumed => ["resume", "hibernating"],
            Self::ResumedElsewhere => ["resume", "connected"],
            Self::TakenOver => ["takeover", "bind"],
            Self::Closed(reason) => ["close", reason.as_str()],
        }
    }
}

/// How a login ended; the label of `unpoll_logins_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Bound.
    Bound,
    /// Resumed.
    Resumed,
    /// The connection ended before.
    Failed,
    /// It was not finished in time.
    TimedOut,
    /// The store did not answer.
    Unavailable,
    /// The device was removed, or its credentials changed meanwhile.
    Refused,
}

impl Login {
    const ALL: [Self; 6] = [
        Self::Bound,
        Self::Resumed,
        Self::Failed,
        Self::TimedOut,
        Self::Unavailable,
        Self::Refused,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
        }
    }
}

/// Why a connection was not served; the label of `unpoll_connections_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No file descriptor is left.
    Files,
    /// Too many connections have not logged in.
    Unauthenticated,
    /// Too many sessions.
    Sessions,
    /// The TLS handshake failed.
    Tls,
    /// It said nothing, and others had no place.
    Silent,
    /// It waited too long for its turn to log in.
    Busy,
}

impl Refused {
    const ALL: [Self; 6] = [
        Self::Files,
        Self::Unauthenticated,
        Self::Sessions,
        Self::Tls,
        Self::Silent,
        Self::Busy,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Unauthenticated => "unauthenticated",
            Self::Sessions => "sessions",
            Self::Tls => "tls",
            Self::Silent => "silent",
            Self::Busy => "busy",
        }
    }
}

/// What a device did that it should not; the label of `unpoll_devices_misbehaved_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaved {
    /// It did not take what was written to it.
    SlowReader,
    /// It sent more than it may.
    Flood,
    /// Logins in its name failed again and again.
    Guessing,
}

impl Misbehaved {
    const ALL: [Self; 3] = [Self::SlowReader, Self::Flood, Self::Guessing];

    fn as_str(self) -> &'static str {
        match self {
            Self::SlowReader => "slow-reader",
            Self::Flood => "flood",
            Self::Guessing => "guessing",
        }
    }
}

/// What became of a report of a device; the label of `unpoll_device_reports_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// It said something new, and is stored.
    Stored,
    /// It said nothing new.
    Unchanged,
    /// There was no room for it, or no such device any more.
    Dropped,
}

impl Reporting {
    const ALL: [Self; 3] = [Self::Stored, Self::Unchanged, Self::Dropped];

    fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Unchanged => "unchanged",
            Self::Dropped => "dropped",
        }
    }
}

/// Handles of the gateway's metrics.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    xmpp: IntGauge,
    xmpps: IntGauge,
    websocket: IntGauge,
    events: IntCounterVec,
    logins: IntCounterVec,
    proofs: IntCounterVec,
    refused: IntCounterVec,
    misbehaved: IntCounterVec,
    reports: IntCounterVec,
    /// Sessions that wait to be resumed.
    pub hibernating: IntGauge,
    /// Connections that have not logged in.
    pub unauthenticated: IntGauge,
    /// Bytes that came in at the sockets, TLS included.
    pub bytes_in: IntCounter,
    /// Bytes that went out at the sockets, TLS included.
    pub bytes_out: IntCounter,
    /// Logins that were slowed because their device's seat changed too often.
    pub slowed: IntCounter,
}

impl GatewayMetrics {
    /// Makes and registers them; `node` is the label of the sessions.
    ///
    /// # Errors
    /// When a metric of the same name is there.
    pub fn register(registry: &Registry, node: &str) -> prometheus::Result<Self> {
        let sessions = IntGaugeVec::new(
            Opts::new("unpoll_sessions", "Sessions with a connection, by transport and node."),
            &["transport", "node"],
        )?;
        let events = IntCounterVec::new(
            Opts::new("unpoll_session_events_total", "What happened to sessions."),
            &["event", "reason"],
        )?;
        for event in [
            SessionEvent::Connected,
            SessionEvent::Resumed,
            SessionEvent::ResumedElsewhere,
            SessionEvent::TakenOver,
        ]
        .into_iter()
        .chain(Reason::ALL.map(SessionEvent::Closed))
        {
            events.get_metric_with_label_values(&event.labels())?;
        }
        let logins = IntCounterVec::new(Opts::new("unpoll_logins_total", "How logins ended."), &["result"])?;
        for login in Login::ALL {
            logins.get_metric_with_label_values(&[login.as_str()])?;
        }
        let proofs = IntCounterVec::new(
            Opts::new(
                "unpoll_login_proofs_total",
                "Logins that led to a session, by the SASL mechanism that proved who it is.",
            ),
            &["mechanism"],
        )?;
        for mechanism in crate::xmpp::mechanisms() {
            proofs.get_metric_with_label_values(&[mechanism])?;
        }
        registry.register(Box::new(proofs.clone()))?;
        let refused = IntCounterVec::new(
            Opts::new("unpoll_connections_refused_total", "Connections of devices that were not served."),
            &["reason"],
        )?;
        for reason in Refused::ALL {
            refused.get_metric_with_label_values(&[reason.as_str()])?;
        }
        let misbehaved = IntCounterVec::new(
            Opts::new(
                "unpoll_devices_misbehaved_total",
                "Times that a device did what it should not; the log and presence name it.",
            ),
            &["what"],
        )?;
        for what in Misbehaved::ALL {
            misbehaved.get_metric_with_label_values(&[what.as_str()])?;
        }
        let reports = IntCounterVec::new(
            Opts::new(
                "unpoll_device_reports_total",
                "What devices reported of themselves, by what became of it; several at short notice count as one.",
            ),
            &["result"],
        )?;
        for result in Reporting::ALL {
            reports.get_metric_with_label_values(&[result.as_str()])?;
        }
        registry.register(Box::new(reports.clone()))?;
        registry.register(Box::new(misbehaved.clone()))?;
        let bytes = IntCounterVec::new(
            Opts::new(
                "unpoll_connection_bytes_total",
                "Bytes at the sockets of devices, TLS included, TCP and IP not.",
            ),
            &["direction"],
        )?;
        let hibernating = IntGauge::new("unpoll_sessions_hibernating", "Sessions that wait for their device to resume them.")?;
        let unauthenticated = IntGauge::new(
            "unpoll_connections_unauthenticated",
            "Connections of devices that have not logged in yet.",
        )?;
        let slowed = IntCounter::new(
            "unpoll_seat_changes_slowed_total",
            "Logins that had to wait because two connections fight for one device.",
        )?;
        registry.register(Box::new(sessions.clone()))?;
        registry.register(Box::new(events.clone()))?;
        registry.register(Box::new(logins.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(hibernating.clone()))?;
        registry.register(Box::new(unauthenticated.clone()))?;
        registry.register(Box::new(slowed.clone()))?;
        Ok(Self {
            xmpp: sessions.get_metric_with_label_values(&[Transport::Xmpp.as_str(), node])?,
            xmpps: sessions.get_metric_with_label_values(&[Transport::Xmpps.as_str(), node])?,
            websocket: sessions.get_metric_with_label_values(&[Transport::WebSocket.as_str(), node])?,
            events,
            logins,
            proofs,
            refused,
            misbehaved,
            reports,
            hibernating,
            unauthenticated,
            bytes_in: bytes.get_metric_with_label_values(&["in"])?,
            bytes_out: bytes.get_metric_with_label_values(&["out"])?,
            slowed,
        })
    }

    /// The gauge of sessions of a transport.
    pub fn sessions(&self, transport: Transport) -> &IntGauge {
        match transport {
            Transport::Xmpp => &self.xmpp,
            Transport::Xmpps => &self.xmpps,
            Transport::WebSocket => &self.websocket,
        }
    }

    /// Counts what happened to a session.
    pub fn session(&self, event: SessionEvent) {
        count(&self.events, &event.labels());
    }

    /// Counts a login.
    pub fn login(&self, login: Login) {
        count(&self.logins, &[login.as_str()]);
    }

    /// Counts a login that led to a session, by the name of its SASL mechanism.
    pub fn proved(&self, mechanism: &str) {
        count(&self.proofs, &[mechanism]);
    }

    /// Counts what a device did.
    pub fn misbehaved(&self, what: Misbehaved) {
        count(&self.misbehaved, &[what.as_str()]);
    }

    /// Counts a report.
    pub fn reported(&self, result: Reporting) {
        count(&self.reports, &[result.as_str()]);
    }

    /// Counts a connection that was not served.
    pub fn refused(&self, reason: Refused) {
        count(&self.refused, &[reason.as_str()]);
    }
}

fn count(counters: &IntCounterVec, labels: &[&str]) {
    if let Ok(counter) = counters.get_metric_with_label_values(labels) {
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_set_exists_from_the_start() {
        let registry = Registry::new();
        GatewayMetrics::register(&registry, "n1").unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"unpoll_sessions{node="n1",transport="xmpps"} 0"#,
            r#"unpoll_sessions{node="n1",transport="websocket"} 0"#,
            r#"unpoll_session_events_total{event="close",reason="silent"} 0"#,
            r#"unpoll_session_events_total{event="resume",reason="hibernating"} 0"#,
            r#"unpoll_logins_total{result="failed"} 0"#,
            r#"unpoll_login_proofs_total{mechanism="HT-SHA-256-EXPR"} 0"#,
            r#"unpoll_login_proofs_total{mechanism="EXTERNAL"} 0"#,
            r#"unpoll_connections_refused_total{reason="files"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_feed_of_presence_has_the_same_words() {
        for reason in Reason::ALL {
            assert_eq!(reason.departure().as_str(), reason.as_str());
        }
    }
}
