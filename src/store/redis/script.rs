//! The scripts: what must happen in one step on one device (or one bucket) happens in one.

use std::sync::LazyLock;

use redis::Cmd;

/// A script, and the hash by which a server that knows it is told to run it.
pub(super) struct Script {
    code: &'static str,
    known: LazyLock<redis::Script>,
}

macro_rules! scripts {
    ($($name:ident $flags:literal [$($part:literal)*]),* $(,)?) => {
        $(pub(super) static $name: Script = {
            const CODE: &str = concat!(
                "#!lua flags=", $flags, "\n",
                include_str!("scripts/parts/base.lua"),
                $(include_str!(concat!("scripts/", $part, ".lua")),)*
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
    ENQUEUE "" ["parts/seat" "parts/due" "enqueue/open" "enqueue/number" "enqueue/write"],
    ENQUEUE_KEYED "" [
        "parts/seat" "parts/queue" "parts/ends" "parts/find" "parts/due"
        "enqueue/open" "enqueue/keyed" "enqueue/number" "enqueue/replace" "enqueue/write"
    ],
    PASS "allow-oom" ["parts/seat" "pass"],
    SETTLE "allow-oom" ["parts/queue" "parts/ends" "parts/find" "settle"],
    LATE "allow-oom" ["late"],
    PUT_OFF "allow-oom" ["parts/seat" "parts/queue" "parts/ends" "parts/find" "put_off"],
    CLAIM "allow-oom" ["parts/seat" "parts/queue" "parts/order" "claim"],
    RELEASE "allow-oom" ["release"],
    PENDING "no-writes" ["parts/order" "pending"],
    REQUEUE "allow-oom" ["parts/seat" "parts/order" "requeue"],
    PUT "" ["put"],
    REMOVE "allow-oom" ["parts/seat" "parts/ends" "parts/due" "parts/order" "remove"],
    EXCHANGE "" ["exchange"],
    SWEEP "allow-oom" ["parts/seat" "parts/queue" "parts/ends" "parts/find" "parts/order" "sweep"],
    OUTBOX "allow-oom" ["outbox"],
    TRIM "allow-oom" ["trim"],
    APPEND "allow-oom" ["append"],
    FLOOR "allow-oom" ["floor"],
    NODE "allow-oom" ["node"],
    RECLAIM "allow-oom" ["parts/seat" "reclaim"],
    LOSE "allow-oom" ["lose"],
    LOSSES "allow-oom" ["losses"],
    LOSS "allow-oom" ["loss"],
    SNAPSHOT "no-writes" ["snapshot"],
    BEGIN_IMPORT "" ["begin-import"],
    IMPORT "" ["import"],
    IMPORT_LOG "" ["import-log"],
    RAISE "" ["raise"],
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
