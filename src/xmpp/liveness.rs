//! Whether the peer still lives: keepalive, overdue acknowledgements, pings of ours (design §4.5, XEP-0199).

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use super::{
    action::SessionEnd,
    error::Condition,
    stream::{ServerStream, Stage},
    text::attribute,
    traffic::LifeSign,
};

/// A closed stream has nothing to wait for.
const NEVER: Duration = Duration::from_secs(86_400);

/// Timers of a stream.
#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    /// A probe of the silence was sent then, and nothing came since.
    probed: Option<Instant>,
    /// An acknowledgement is owed.
    owed: Option<Owed>,
    /// Number of the last ping of ours.
    pings: u32,
    /// The ping that is not answered, and how many of the oldest stanzas it vouches for.
    ping: Option<(u32, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Owed {
    since: Instant,
    /// It was asked for a second time.
    reminded: bool,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            probed: None,
            owed: None,
            pings: 0,
            ping: None,
        }
    }

    /// Bytes came in.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        self.probed = None;
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.heard
    }

    /// An acknowledgement was asked for.
    pub(super) fn asked(&mut self, now: Instant) {
        self.owed.get_or_insert(Owed {
            since: now,
            reminded: false,
        });
    }

    /// One came: it covered something new or not, and leaves something uncovered or not.
    pub(super) fn answered(&mut self, progress: bool, left: bool, now: Instant) {
        if !left {
            self.owed = None;
        } else if let Some(owed) = self.owed.as_mut().filter(|_| progress) {
            *owed = Owed {
                since: now,
                reminded: false,
            };
        }
    }
}

impl ServerStream {
    /// Asks for a sign that everything so far arrived: `<r/>`, or a ping. Only one ping is under way at a time: false when
    /// it is, and the answer to it will lead to the next.
    pub(super) fn ask(&mut self, kind: LifeSign) -> bool {
        let Some(session) = &self.session else { return false };
        if session.managed {
            self.write_plain(kind, |out| out.extend_from_slice(b"<r xmlns='urn:xmpp:sm:3'/>"));
            return true;
        }
        if self.live.ping.is_some() {
            return false;
        }
        let number = self.live.pings.wrapping_add(1);
        self.live.pings = number;
        self.live.ping = Some((number, session.window.in_flight()));
        self.ping(number, kind);
        true
    }

    /// Asks a silent device for any sign of life. One that never answered the last ping is sent that again.
    fn probe(&mut self) {
        if !self.ask(LifeSign::Keepalive)
            && let Some((number, _)) = self.live.ping
        {
            self.ping(number, LifeSign::Keepalive);
        }
    }

    fn ping(&mut self, number: u32, kind: LifeSign) {
        let Some(session) = &self.session else { return };
        let before = self.out.len();
        // Writing to a Vec cannot fail.
        _ = write!(self.out, "<iq type='get' id='ping-{number}'");
        attribute(&mut self.out, "from", session.jid.domain());
        attribute(&mut self.out, "to", session.jid.full());
        self.out.extend_from_slice(b"><ping xmlns='urn:xmpp:ping'/></iq>");
        self.traffic.send(kind, self.out.len() - before);
    }

    /// An answer of the device to an IQ of ours: a result or an error, both prove that what was written before arrived.
    pub(super) fn pong(&mut self, id: &str, now: Instant) -> LifeSign {
        let number = id.strip_prefix("ping-").and_then(|number| number.parse().ok());
        let Some((_, covered)) = self.live.ping.take_if(|(sent, _)| Some(*sent) == number) else {
            return LifeSign::Connect;
        };
        let Some(session) = &mut self.session else {
            return LifeSign::Keepalive;
        };
        // Where XEP-0198 was enabled behind the ping, this answer still vouches for what was written before. Asking anew would
        // be wrong there: xmpp.js counts from 0 only a moment after it has read `<enabled/>`.
        let managed = session.managed;
        let covered = if managed {
            covered.min(session.window.uncounted())
        } else {
            covered
        };
        let ends = session.window.take(covered);
        let left = session.window.in_flight() > 0;
        self.live.answered(covered > 0, left, now);
        self.ended(ends);
        if left && !managed {
            self.unasked = true;
            self.flush(now);
        }
        if covered > 0 {
            LifeSign::Acknowledgement
        } else {
            LifeSign::Keepalive
        }
    }

    /// Time passes: keepalive probes, deadlines.
    pub fn elapse(&mut self, now: Instant) {
        match self.stage {
            Stage::Closed | Stage::Leaving | Stage::Taken => {}
            Stage::Bound => self.elapse_in_session(now),
            Stage::Header | Stage::Open | Stage::Waiting | Stage::Tls => {
                if self.login.as_ref().is_some_and(|login| now >= login.deadline) {
                    self.fail_with(&Condition::PolicyViolation("the login took too long"));
                }
            }
        }
    }

    fn elapse_in_session(&mut self, now: Instant) {
        self.flood.elapse(now);
        let overdue = self.config.overdue;
        if self.live.probed.is_some_and(|probed| now >= probed + overdue) {
            return self.dead();
        }
        if let Some(owed) = self.live.owed.filter(|owed| now >= owed.since + overdue) {
            // It was silent all that time, or talks and does not acknowledge even when reminded.
            if owed.reminded || self.live.heard <= owed.since {
                return self.dead();
            }
            self.ask(LifeSign::Keepalive);
            self.live.owed = Some(Owed {
                since: now,
                reminded: true,
            });
        }
        if self.live.probed.is_none() && now >= self.live.heard + self.keepalive() {
            self.probe();
            self.live.probed = Some(now);
        }
        self.retire(now);
    }

    fn dead(&mut self) {
        let end: SessionEnd = self.end_of_lost_connection();
        self.fail_and_end(&Condition::ConnectionTimeout, end);
    }

    /// When to call `elapse` next. While idle this is the next keepalive.
    pub fn wake_at(&self) -> Instant {
        let live = &self.live;
        match self.stage {
            Stage::Closed | Stage::Leaving | Stage::Taken => live.heard + NEVER,
            Stage::Bound => {
                let silence = match live.probed {
                    Some(probed) => probed + self.config.overdue,
                    None => live.heard + self.keepalive(),
                };
                let owed = live.owed.map(|owed| owed.since + self.config.overdue);
                let others = [owed, self.flood.until(), self.retires.map(|(at, _)| at)];
                others.into_iter().flatten().fold(silence, Instant::min)
            }
            _ => self.login.as_ref().map_or(live.heard + NEVER, |login| login.deadline),
        }
    }
}
