//! A transcript as it stands in a file.

/// One step of a transcript.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Comment(String),
    Scene(String),
    Client(String),
    Server(String),
    Happens(String),
    Told(String),
}

pub(super) fn read(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if line.starts_with(' ') {
            match steps.last_mut() {
                Some(Step::Client(text) | Step::Server(text)) => text.push_str(line.trim_start()),
                other => panic!("{line:?} goes on with {other:?}"),
            }
            continue;
        }
        let rest = line.get(2..).unwrap_or_default().trim_start().to_owned();
        steps.push(match line.get(..2) {
            Some("C:") => Step::Client(rest),
            Some("S:") => Step::Server(rest),
            Some("! ") => Step::Scene(rest),
            Some("+ ") => Step::Happens(rest),
            Some("= ") => Step::Told(rest),
            Some("# ") | None => Step::Comment(line.to_owned()),
            _ => panic!("{line:?} is no step"),
        });
    }
    steps
}

/// Whether `said` is `expected`, where `…` stands for anything.
pub(super) fn matches(expected: &str, said: &str) -> bool {
    let mut pieces = expected.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| said.strip_prefix(first)) else {
        return false;
    };
    let mut open = false;
    for piece in pieces {
        open = piece.is_empty();
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    open || rest.is_empty()
}

/// The same said in as few pieces as possible: what a client says until it must read, or something happens, goes out at once. `None`
/// where what it says ahead is thrown away.
pub(super) fn pipelined(steps: &[Step]) -> Option<Vec<Step>> {
    let mut whole = Vec::new();
    let mut at_once = AtOnce::default();
    for step in steps {
        match step {
            Step::Comment(_) => {}
            Step::Client(text) => {
                if ["<starttls", "GET /"].iter().any(|word| text.contains(word)) {
                    return None;
                }
                // It must have read what it counts, or proves.
                if text.starts_with("<a ") || text.contains("{final") || text.contains("{fast") {
                    at_once.flush(&mut whole);
                }
                at_once.client.push_str(text);
            }
            Step::Server(text) if !at_once.client.is_empty() => at_once.server.push_str(text),
            Step::Told(text) if !at_once.client.is_empty() => at_once.told.push(text.clone()),
            Step::Server(_) | Step::Told(_) => whole.push(step.clone()),
            // There a message is an element.
            Step::Scene(scene) if scene == "websocket" => return None,
            Step::Scene(_) | Step::Happens(_) => {
                at_once.flush(&mut whole);
                whole.push(step.clone());
            }
        }
    }
    at_once.flush(&mut whole);
    Some(whole)
}

/// What is said at once, and all that it is answered.
#[derive(Default)]
struct AtOnce {
    client: String,
    server: String,
    told: Vec<String>,
}

impl AtOnce {
    fn flush(&mut self, whole: &mut Vec<Step>) {
        let AtOnce { client, server, told } = std::mem::take(self);
        if !client.is_empty() {
            whole.push(Step::Client(client));
        }
        if !server.is_empty() {
            whole.push(Step::Server(server));
        }
        if !told.is_empty() {
            whole.push(Step::Told(told.join("; ")));
        }
    }
}

/// A step as it stands in a file, one top-level element a line.
pub(super) fn line(step: &Step) -> String {
    match step {
        Step::Comment(text) => text.clone(),
        Step::Scene(text) => format!("! {text}"),
        Step::Client(text) => format!("C: {text}"),
        Step::Happens(text) => format!("+ {text}"),
        Step::Told(text) => format!("= {text}"),
        Step::Server(text) => {
            let mut text = text.clone();
            let opens = |before: &str| before.contains("<stream:stream") || before.contains("<open ");
            if let Some(at) = text.find(" id='").filter(|at| opens(&text[..*at])) {
                let end = at + 5 + text[at + 5..].find('\'').unwrap();
                text.replace_range(at + 5..end, "…");
            }
            for secret in [
                "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>",
                "<challenge xmlns='urn:xmpp:sasl:2'>",
                "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>",
                "<additional-data>",
            ] {
                if let Some(at) = text.find(secret) {
                    let from = at + secret.len();
                    let to = from + text[from..].find('<').unwrap();
                    if to > from {
                        text.replace_range(from..to, "…");
                    }
                }
            }
            for start in [
                "<stream:features",
                "<stream:error",
                "<message ",
                "<iq ",
                "<presence ",
                "<r ",
                "<a ",
                "</stream:stream",
                "<close ",
            ] {
                text = text.replace(start, &format!("\n   {start}"));
            }
            format!("S: {}", text.trim_start())
        }
    }
}
