//! The scripts: what must happen in one step on one device (or one bucket) happens in one.

use std::sync::LazyLock;

use redis::Cmd;

/// A script, and the hash by which a server that knows it is told to run it.
pub(super) struct Script {
    code: &'static str,
    known: LazyLock<redis::Script>,
}

macro_rules! scripts {
    ($($name:ident $file:literal $flags:literal [$($part:literal)*]),* $(,)?) => {
        $(pub(super) static $name: Script = {
            const CODE: &str = concat!(
                "#!lua flags=", $flags, "\n",
                include_str!("scripts/parts/base.lua"),
                $(include_str!(concat!("scripts/parts/", $part, ".lua")),)*
                include_str!(concat!("scripts/", $file, ".lua"))
            );
            Script { code: CODE, known: LazyLock::new(|| redis::Script::new(CODE)) }
        };)*
        /// Every one.
        pub(super) static ALL: &[&Script] = &[$(&$name),*];
    };
}

// With `allow-oom` it goes on when Redis has no memory left for new events: what ends makes room. Each has the parts that it needs and no
// more, because a script makes all its functions anew each time it is run.
scripts! {
    ENQUEUE "enqueue" "" ["seat" "queue" "ends" "find" "due"],
    PASS "pass" "allow-oom" ["seat"],
    SETTLE "settle" "allow-oom" ["queue" "ends" "find"],
    LATE "late" "allow-oom" [],
    PUT_OFF "put_off" "allow-oom" ["seat" "queue" "ends" "find"],
    CLAIM "claim" "allow-oom" ["seat" "queue" "order"],
    RELEASE "release" "allow-oom" [],
    PENDING "pending" "no-writes" ["order"],
    REQUEUE "requeue" "allow-oom" ["seat" "order"],
    PUT "put" "" [],
    REMOVE "remove" "allow-oom" ["seat" "ends" "due" "order"],
    EXCHANGE "exchange" "" [],
    SWEEP "sweep" "allow-oom" ["seat" "queue" "ends" "find" "order"],
    OUTBOX "outbox" "allow-oom" [],
    TRIM "trim" "allow-oom" [],
    APPEND "append" "allow-oom" [],
    FLOOR "floor" "allow-oom" [],
    NODE "node" "allow-oom" [],
    RECLAIM "reclaim" "allow-oom" ["seat"],
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
