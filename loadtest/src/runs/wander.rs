//! The process of devices that wander between nodes: a plan on stdin as a line of JSON, what they say on stdout, a line each. Any
//! other line, or the end of stdin, ends them.

use std::{sync::Arc, time::Duration};

use loadtest::{
    Error,
    wander::{Plan, Said, Wanderers},
};

use super::helper::Parent;

/// How often it is said how many have a session, when that has changed.
const SAY_EVERY: Duration = Duration::from_millis(100);

/// The life of the process.
pub async fn serve_parent() -> Result<(), Error> {
    let mut parent = Parent::new();
    let Some(plan) = parent.order::<Plan>().await? else {
        return Err(Error::Machine("no plan".into()));
    };
    loadtest::process::allow_files(plan.devices)?;
    let mut devices = Wanderers::start(plan, Arc::new(say));
    let mut said = None;
    loop {
        tokio::select! {
            // Nobody asks for more than the end.
            order = parent.order::<serde::de::IgnoredAny>() => {
                order?;
                break;
            }
            () = tokio::time::sleep(SAY_EVERY) => {
                let up = devices.up();
                if said.replace(up) != Some(up) {
                    say(Said::Up(up));
                }
            }
        }
    }
    devices.end().await
}

/// Short, and the parent reads: it does not block the devices.
fn say(said: Said) {
    match serde_json::to_string(&said) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("loadtest: {said:?} cannot be said: {error}"),
    }
}
