//! How the settings fit together: above all, what may be open beyond loopback.

use std::net::SocketAddr;

use super::{Config, ConfigError};

impl Config {
    /// Checks what single values cannot tell: the domain, and that nothing secret is open beyond loopback by accident.
    ///
    /// # Errors
    /// Everything that is wrong, each with the setting and the way out.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.check_domain(&mut problems);
        self.check_certificate(&mut problems);
        self.check_clear_text(&mut problems);
        self.check_ledger(&mut problems);
        problems.extend(self.redis.problems());
        problems.extend(self.redis.is_used().then(|| self.cluster.check().err()).flatten());
        problems.extend(self.tokens.problems());
        problems.extend(self.jwt.problems());
        problems.extend(self.check_keys());
        problems.extend(self.xmpp.problems());
        problems.extend(self.log.filter().err().map(|error| error.to_string()));
        if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
    }

    fn check_keys(&self) -> Option<String> {
        let (given, most) = (self.registry.key_grace_secs, crate::registry::KEY_GRACE_MAX_SECS);
        (given > most).then(|| format!("registry.key_grace_secs = {given} is too long; use at most {most} (30 days)"))
    }

    fn check_ledger(&self, problems: &mut Vec<String>) {
        let percent = self.registry.control_percent;
        if !(0.0..=100.0).contains(&percent) {
            problems.push(format!("registry.control_percent = {percent} is no share; use 0 to 100"));
        }
        let factor = self.ledger.absence_factor;
        if !(1.0..=1_000.0).contains(&factor) {
            problems.push(format!("ledger.absence_factor = {factor} is not possible; use 1 to 1000"));
        }
    }

    fn check_domain(&self, problems: &mut Vec<String>) {
        if !crate::domain::is_domain(&self.domain) {
            problems.push(format!(
                "domain = {:?} is no domain name; use lower-case letters, digits and '-', in parts joined by '.'",
                self.domain
            ));
        }
    }

    fn check_certificate(&self, problems: &mut Vec<String>) {
        if self.tls.certificate.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            problems.push("tls.certificate and tls.key go together: set both, or neither for a generated certificate".into());
        }
        let incomplete = |pair: &crate::tls::Pair| pair.certificate.as_os_str().is_empty() || pair.key.as_os_str().is_empty();
        if self.tls.certificates.iter().any(incomplete) {
            problems.push("tls.certificates: each names a certificate and its key".into());
        }
        if !self.tls.generates_certificate() || self.tls.risk_impostors_beyond_loopback {
            return;
        }
        let mut listeners = vec![("https.listen", self.https.listen), ("xmpp.listen_tls", self.xmpp.listen_tls)];
        if self.xmpp.require_tls {
            listeners.push(("xmpp.listen", self.xmpp.listen));
        }
        for (setting, address) in beyond_loopback(listeners) {
            problems.push(format!(
                "{setting} = {address} is beyond loopback, and the generated certificate proves nothing there: set tls.certificate and \
                 tls.key, listen on loopback, or set tls.risk_impostors_beyond_loopback = true"
            ));
        }
    }

    fn check_clear_text(&self, problems: &mut Vec<String>) {
        if !self.tls.risk_readable_keys_beyond_loopback {
            for (setting, address) in beyond_loopback(vec![("http.listen", self.http.listen), ("admin.listen", self.admin.listen)]) {
                problems.push(format!(
                    "{setting} = {address} is beyond loopback without TLS, so API keys could be read on the way: listen on loopback \
                     (https.listen has TLS), or set tls.risk_readable_keys_beyond_loopback = true"
                ));
            }
        }
        if !self.xmpp.require_tls && !self.tls.risk_readable_passwords_beyond_loopback {
            for (setting, address) in beyond_loopback(vec![("xmpp.listen", self.xmpp.listen), ("http.listen", self.http.listen)]) {
                problems.push(format!(
                    "{setting} = {address} is beyond loopback and xmpp.require_tls is false, so passwords could be read on the way: set \
                     xmpp.require_tls = true, listen on loopback, or set tls.risk_readable_passwords_beyond_loopback = true"
                ));
            }
        }
    }
}

fn beyond_loopback(listeners: Vec<(&'static str, SocketAddr)>) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    listeners
        .into_iter()
        .filter(|(_, address)| !address.ip().to_canonical().is_loopback())
}
