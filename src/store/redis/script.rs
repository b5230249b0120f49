//! The scripts: what must happen in one step on one device (or one bucket) happens in one.

use std::sync::LazyLock;

use redis::Cmd;

/// A script, and the hash by which a server that knows it is told to run it.
pub(super) struct Script {
    code: &'static str,
    known: LazyLock<redis::Script>,
}

macro_rules! scripts {
    ($($name:ident $file:literal $flags:literal),* $(,)?) => {
        $(pub(super) static $name: Script = {
            const CODE: &str = concat!("#!lua flags=", $flags, "\n", include_str!("scripts/common.lua"), include_str!(concat!("scripts/", $file, ".lua")));
            Script { code: CODE, known: LazyLock::new(|| redis::Script::new(CODE)) }
        };)*
        /// Every one.
        pub(super) static ALL: &[&Script] = &[$(&$name),*];
    };
}

// With `allow-oom` it goes on when Redis has no memory left for new events: what ends makes room.
scripts! {
    ENQUEUE "enqueue" "",
    PASS "pass" "allow-oom",
    SETTLE "settle" "allow-oom",
    CLAIM "claim" "allow-oom",
    RELEASE "release" "allow-oom",
    PENDING "pending" "no-writes",
    REQUEUE "requeue" "allow-oom",
    PUT "put" "",
    REMOVE "remove" "allow-oom",
    EXCHANGE "exchange" "",
    SWEEP "sweep" "allow-oom",
    OUTBOX "outbox" "allow-oom",
    TRIM "trim" "allow-oom",
    APPEND "append" "allow-oom",
    FLOOR "floor" "allow-oom",
    NODE "node" "allow-oom",
    RECLAIM "reclaim" "allow-oom",
}

impl Script {
    /// The command that runs it. Arguments follow: `.arg(…)` each.
    pub(super) fn call(&self, keys: &[String]) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(self.known.get_hash()).arg(keys.len());
        for key in keys {
            cmd.arg(key);
        }
        cmd
    }

    /// The command that makes it known to a server.
    pub(super) fn load(&self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(self.code);
        cmd
    }
}
