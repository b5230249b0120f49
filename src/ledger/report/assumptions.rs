//! What the figures rest on, in words.

use crate::ledger::Ledger;

impl Ledger {
    /// Each as a sentence.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let config = &self.config;
        let interval = config.interval_secs();
        let cold = (config.poll_bytes_in, config.poll_bytes_out);
        let warm = (config.efficient_poll_bytes_in, config.efficient_poll_bytes_out);
        let (grace, service, cpu) = (config.grace_secs, config.poll_service_ms, config.poll_cpu_micros);
        let (headers, absence) = (config.packet_header_bytes, config.absence_factor);
        vec![
            format!(
                "Without push a device would poll every {interval} s, or at its own interval where it has one; this is declared, and the ratio requests compares it with cohort control."
            ),
            "A device of cohort push that does not poll is taken not to; one of another cohort, or of which nobody knows, earns nothing. One that polls earns nothing from the proof of life before the poll until twice its interval after it.".to_owned(),
            format!(
                "A proof of life vouches for the time since the one before, at most for the keepalive interval and {grace} s; the time from the last proof to the end of a session earns nothing."
            ),
            "measured: polls and bytes as cohort control made them for each poll predicted, in the last 24 hours at the time of the credit.".to_owned(),
            format!(
                "declared: an empty poll costs {} B in and {} B out, TCP/IP headers included.",
                cold.0, cold.1
            ),
            format!(
                "efficient: an empty poll costs {} B in and {} B out; the number of polls is the same.",
                warm.0, warm.1
            ),
            format!(
                "push and real polls: bytes as counted at the socket, TLS included, and {headers} B of headers for every packet and its TCP acknowledgement."
            ),
            format!("A poll is answered in {service} ms. Intervals do not vary; if they did, polling would be slower than shown."),
            format!(
                "A poll costs {cpu} us of CPU on the polled server: declared. Push is charged with all CPU of the process, its poll door included, and with all memory above that of its start."
            ),
            "The payload of events is on neither side, and neither are polls at start-up, although push pays for every connect.".to_owned(),
            format!(
                "Calibration: a device of cohort control was there between two polls at most {absence} intervals apart; polls that wait for events, refusals, and acknowledgements of polled events are left out."
            ),
            "Events accepted while the device was away claim no latency. Not seen: radio and battery, middleboxes, CDN costs.".to_owned(),
            "The figures are of the whole service. residual_polls, made by devices of cohort push all the same, are not subtracted.".to_owned(),
        ]
    }
}
