//! The scripts: what must happen in one step on one device (or one bucket) happens in one.
//!
//! A server knows them as functions of one library (`FUNCTION LOAD`), which it keeps, writes to its file and replicates as it does data.
//! A function costs less than a script that is named by its hash (`EVALSHA`), because its helpers are there and not made anew for each
//! run. The library has its own hash in its name and in the names of its functions: nodes of two versions share a server, and each
//! calls its own.

use std::{fmt::Write as _, sync::LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use redis::{Cmd, ServerError};

/// A script, by its place among all.
pub(super) struct Script(usize);

/// What the library has of a script.
struct Function {
    name: &'static str,
    flags: &'static str,
    body: &'static str,
}

macro_rules! scripts {
    ([$($shared:literal)*] $($name:ident $flags:literal [$($part:literal)*]),* $(,)?) => {
        /// What functions share.
        const SHARED: &str = concat!($(include_str!(concat!("scripts/parts/", $shared, ".lua")),)*);
        const FUNCTIONS: &[Function] = &[$(Function {
            name: stringify!($name),
            flags: $flags,
            body: concat!($(include_str!(concat!("scripts/", $part, ".lua")),)*),
        }),*];
        scripts!(@place 0usize; $($name)*);
    };
    (@place $at:expr; $name:ident $($rest:ident)*) => {
        pub(super) static $name: Script = Script($at);
        scripts!(@place $at + 1; $($rest)*);
    };
    (@place $at:expr;) => {};
}

// With `allow-oom` it goes on when Redis has no memory left for new events: what ends makes room.
scripts! {
    ["base" "seat" "queue" "ends" "find" "due" "order" "row"]
    PROBE "'no-writes', 'allow-oom'" ["probe"],
    ENQUEUE "" ["enqueue/open" "enqueue/room" "enqueue/number" "enqueue/keep" "enqueue/write"],
    ENQUEUE_KEYED "" [
        "enqueue/open" "enqueue/keyed" "enqueue/room" "enqueue/number" "enqueue/replace" "enqueue/keep" "enqueue/write"
    ],
    SCHEDULE "" [
        "enqueue/open" "enqueue/keyed" "enqueue/room" "enqueue/place" "enqueue/replace" "enqueue/keep" "enqueue/schedule"
    ],
    PASS "'allow-oom'" ["pass"],
    SETTLE "'allow-oom'" ["settle"],
    LATE "'allow-oom'" ["late"],
    PUT_OFF "'allow-oom'" ["put_off"],
    CLAIM "'allow-oom'" ["claim"],
    RELEASE "'allow-oom'" ["release"],
    PENDING "'no-writes'" ["pending"],
    REQUEUE "'allow-oom'" ["requeue"],
    PUT "" ["put"],
    REMOVE "'allow-oom'" ["remove"],
    EXCHANGE "" ["exchange"],
    SWEEP "'allow-oom'" ["sweep"],
    OUTBOX "'allow-oom'" ["outbox"],
    TRIM "'allow-oom'" ["trim"],
    APPEND "'allow-oom'" ["append"],
    FLOOR "'allow-oom'" ["floor"],
    NODE "'allow-oom'" ["node"],
    RECLAIM "'allow-oom'" ["reclaim"],
    LOSE "'allow-oom'" ["lose"],
    LOSSES "'allow-oom'" ["losses"],
    LOSS "'allow-oom'" ["loss"],
    SNAPSHOT "'no-writes'" ["snapshot"],
    BEGIN_IMPORT "" ["begin-import"],
    IMPORT "" ["import"],
    IMPORT_LOG "" ["import-log"],
    RAISE "" ["raise"],
    WEBHOOK "" ["webhook"],
    WEBHOOK_LEASE "'allow-oom'" ["webhook-lease"],
    WEBHOOK_STEP "'allow-oom'" ["webhook-step"],
    WEBHOOK_REDRIVE "" ["webhook-redrive"],
    ROTATE "" ["rotate"],
    AUDIT "'allow-oom'" ["audit"],
    GROUP_BEGIN "" ["group-begin"],
    GROUP_FINISH "'allow-oom'" ["group-finish"],
    GROUP_DROP "'allow-oom'" ["group-drop"],
}

/// The library: its text, and the names of its functions.
struct Library {
    code: String,
    names: Vec<String>,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let mut texts = String::from(SHARED);
    for function in FUNCTIONS {
        texts += function.name;
        texts += function.flags;
        texts += function.body;
    }
    let hash = HEXLOWER.encode(&digest(&SHA256, texts.as_bytes()).as_ref()[..6]);
    let mut code = format!("#!lua name=unpoll_{hash}\n{SHARED}");
    let mut names = Vec::with_capacity(FUNCTIONS.len());
    for Function { name, flags, body } in FUNCTIONS {
        let name = format!("unpoll_{}_{hash}", name.to_ascii_lowercase());
        // Writing to a text cannot fail.
        let _ = write!(
            code,
            "\nredis.register_function{{function_name = '{name}', flags = {{{flags}}}, callback = function(KEYS, ARGV)\n\
             if not call then begin() end\n{body}\nend}}\n"
        );
        names.push(name);
    }
    Library { code, names }
});

impl Script {
    /// The command that runs it. Arguments follow: `.arg(…)` each.
    pub(super) fn call(&self, keys: &[String]) -> Cmd {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(LIBRARY.names.get(self.0)).arg(keys.len());
        for key in keys {
            cmd.arg(key);
        }
        cmd
    }
}

/// Sees to it that a server knows the scripts. One that does is not written to: it may have no room, or lack replicas.
///
/// # Errors
/// When the server or its access list does not allow it.
pub(super) async fn make_known(connection: &mut impl redis::aio::ConnectionLike) -> redis::RedisResult<()> {
    let probe = PROBE.call(&[]).query_async::<()>(connection).await;
    if !probe.as_ref().is_err_and(|error| error.detail().is_some_and(is_missing)) {
        return probe;
    }
    let loaded = redis::cmd("FUNCTION")
        .arg("LOAD")
        .arg(&LIBRARY.code)
        .query_async::<String>(connection)
        .await;
    match loaded {
        // Another node was faster.
        Err(error) if error.detail().is_some_and(|detail| detail.contains("already exists")) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether a server refused a command because it does not know the scripts: after `FUNCTION FLUSH`, or when it is new.
pub(super) fn is_unknown(error: &ServerError) -> bool {
    error.details().is_some_and(is_missing)
}

fn is_missing(text: &str) -> bool {
    text.starts_with("Function not found")
}
