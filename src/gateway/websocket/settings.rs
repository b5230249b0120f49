//! What is wrong with the settings of the door.

use super::super::Config;

/// One sentence for each.
pub(in super::super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let url = &config.websocket_url;
    if !(url.is_empty() || url.starts_with("wss://") || url.starts_with("ws://") && !config.require_tls) {
        problems.push(format!(
            "xmpp.websocket_url = {url:?} is no address of a WebSocket: write it as \"wss://push.example.com/xmpp-websocket\""
        ));
    }
    for origin in config.websocket_origins.iter().filter(|origin| !is_origin(origin)) {
        problems.push(format!(
            "xmpp.websocket_origins has {origin:?}, which is no origin (RFC 6454 §6.1): write \"https://ui.example.com\", with no path"
        ));
    }
    problems
}

/// Whether a browser could send that: scheme and host, or `null`.
fn is_origin(origin: &str) -> bool {
    let host = |(scheme, host): (&str, &str)| !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    origin == "null" || origin.split_once("://").is_some_and(host)
}
