//! `POST /v1/import`: what an export wrote. A line that is refused spoils no other, and the whole can be repeated from its start.

use std::sync::Arc;

use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::{
    Parts, TransferState, busy,
    group::{Group, Groups},
    outcome::Outcome,
};
use crate::{
    domain::{Caller, Refusal, Scope},
    http::{AuditDetail, Line, Lines, MediaType, Parameters},
    store::{
        StoreError,
        transfer::{Counts, FORMAT, Header, Piece, Row, Taken, Transfer},
    },
};

/// The longest line, in bytes: the data of an event, or the attributes of a device and all that it reported, at their largest.
const LINE_MAX: usize = 4 * 1024 * 1024;
/// Groups of lines that are being stored at once, and bytes of them: the store commits them together.
const TOGETHER: usize = 64;
const BYTES_TOGETHER: usize = 16 * 1024 * 1024;

pub(super) async fn post(
    State(state): State<TransferState>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<(Extension<AuditDetail>, Json<Outcome>), Refusal> {
    caller.require(Scope::Operator)?;
    let (partial, begin_only) = (parameters.take_flag("partial")?, parameters.take_flag("begin_only")?);
    parameters.finish()?;
    match MediaType::of(&headers)? {
        Some(given) if matches!(given.essence.as_str(), "application/x-ndjson" | "application/jsonl") && given.is_utf8() => {}
        given => return Err(Refusal::UnsupportedMediaType(given.map(|given| given.given).unwrap_or_default())),
    }
    let parts = &*state.0;
    let Ok(_room) = parts.import.try_acquire() else {
        return Err(busy());
    };
    let mut lines = Lines::new(body, LINE_MAX);
    let header = first(lines.next().await?)?;
    begin(parts, &header).await?;
    if begin_only {
        return Ok((
            Extension(AuditDetail(format!(
                "export {}, begun",
                header.id.chars().take(64).collect::<String>()
            ))),
            Json(Outcome::default()),
        ));
    }
    tracing::info!(key.name = %caller.key_name, "the key {} imports the export {}", caller.key_name, header.id);
    let mut import = Import {
        store: parts.store.clone(),
        groups: Groups::new(&header.id_key),
        groups_began: false,
        storing: FuturesUnordered::new(),
        bytes: 0,
        read: Counts::default(),
        end: false,
        last_line: 1,
        outcome: Outcome::default(),
    };
    while let Some(line) = lines.next().await? {
        import.line(&line).await?;
    }
    let outcome = import.finish(&header, partial).await?;
    tracing::info!(
        key.name = %caller.key_name,
        "the import of the key {} has ended: {} devices are new, {} lines were refused",
        caller.key_name, outcome.stored.devices, outcome.refused
    );
    let detail = AuditDetail(format!(
        "export {}: {} devices are new, {} lines were refused",
        header.id.chars().take(64).collect::<String>(),
        outcome.stored.devices,
        outcome.refused
    ));
    Ok((Extension(detail), Json(outcome)))
}

/// The first line, which says whose export it is.
fn first(line: Option<Line>) -> Result<Header, Refusal> {
    let wrong = |field: &str, why: &str| Refusal::InvalidField {
        field: if field.is_empty() { "the first line".into() } else { field.into() },
        why: why.into(),
    };
    let bytes = line.and_then(|line| line.bytes);
    let bytes = bytes.ok_or_else(|| wrong("", "it must be what unpoll export writes first: {\"export\":…}"))?;
    match Row::read(&bytes) {
        Ok(Row::Export(header)) if header.format <= FORMAT => Ok(header),
        Ok(Row::Export(header)) => Err(Refusal::Conflict(format!(
            "the export has format {}, this server reads up to {FORMAT}; use the version that wrote it, or a later one",
            header.format
        ))),
        Ok(_) => Err(wrong("", "it must be {\"export\":…}, so the beginning of the export is missing")),
        Err((field, why)) => Err(wrong(&field, &why)),
    }
}

async fn begin(parts: &Parts, header: &Header) -> Result<(), Refusal> {
    let own = parts.store.header().await.map_err(StoreError::refusal_of_all)?;
    if own.domain != header.domain {
        return Err(Refusal::Conflict(format!(
            "the devices of the export are of the domain {}, this server is {}; set its domain, or, where they are to move, change the \
             domain in the first line of the export",
            header.domain, own.domain
        )));
    }
    parts.store.begin_import(header).await.map_err(StoreError::refusal_of_all)
}

type Storing = BoxFuture<'static, (usize, usize, Counts, Result<Taken, StoreError>)>;

/// One request.
struct Import {
    store: Arc<dyn Transfer>,
    groups: Groups,
    /// Groups of events come: every device is stored.
    groups_began: bool,
    storing: FuturesUnordered<Storing>,
    /// Bytes of what is being stored.
    bytes: usize,
    read: Counts,
    /// The last line has come.
    end: bool,
    last_line: usize,
    outcome: Outcome,
}

impl Import {
    async fn line(&mut self, line: &Line) -> Result<(), Refusal> {
        self.last_line = line.number;
        let Some(bytes) = &line.bytes else {
            self.outcome.refuse(line.number, "", format!("it has more than {LINE_MAX} bytes"));
            return Ok(());
        };
        if self.end {
            self.outcome.refuse(line.number, "", "nothing follows the end of an export");
            return Ok(());
        }
        let row = match Row::read(bytes) {
            Ok(row) => row,
            Err((field, why)) => {
                self.groups.unreadable(bytes.trim_ascii_start().starts_with(b"{\"device\""));
                self.outcome.refuse(line.number, field, why);
                return Ok(());
            }
        };
        self.read.count(&row);
        if let Row::End(counts) = row {
            self.end = true;
            if self.outcome.refused == 0 && counts != self.read {
                let why = format!("the export had {counts}, and {} came: lines are missing", self.read);
                self.outcome.refuse(line.number, "end", why);
            }
            return Ok(());
        }
        // Devices need their tenant, and keys, too; groups need their devices.
        let alone = matches!(row, Row::Tenant(_) | Row::Key(_) | Row::Webhook(_));
        if matches!(row, Row::Group(_)) && !self.groups_began {
            self.groups_began = true;
            self.store_all().await?;
        }
        match self.groups.add(line.number, bytes.len(), row) {
            Ok(Some(group)) => self.store(group).await?,
            Ok(None) => {}
            Err((field, why)) => self.outcome.refuse(line.number, field, why),
        }
        if alone {
            self.store_all().await?;
        }
        Ok(())
    }

    /// Begins to store a group, when there is room for it.
    async fn store(&mut self, group: Group) -> Result<(), Refusal> {
        while self.storing.len() >= TOGETHER || (self.bytes > 0 && self.bytes + group.bytes > BYTES_TOGETHER) {
            self.stored().await?;
        }
        self.bytes += group.bytes;
        // Positions in a log rise.
        let in_order = matches!(group.piece, Piece::Receipts(_));
        let store = self.store.clone();
        self.storing.push(Box::pin(async move {
            let taken = store.import(group.piece).await;
            (group.first_line, group.bytes, group.rows, taken)
        }));
        while in_order && !self.storing.is_empty() {
            self.stored().await?;
        }
        Ok(())
    }

    async fn stored(&mut self) -> Result<(), Refusal> {
        let Some((line, bytes, rows, taken)) = self.storing.next().await else {
            return Ok(());
        };
        self.bytes -= bytes;
        match taken {
            Ok(taken) => self.outcome.took(taken, rows),
            Err(StoreError::Conflict(why)) => self.outcome.refuse(line, "", why),
            // The import can be repeated from its start.
            Err(error) => return Err(error.refusal_of_all()),
        }
        Ok(())
    }

    async fn store_all(&mut self) -> Result<(), Refusal> {
        if let Some(group) = self.groups.take() {
            self.store(group).await?;
        }
        while !self.storing.is_empty() {
            self.stored().await?;
        }
        Ok(())
    }

    async fn finish(mut self, header: &Header, partial: bool) -> Result<Outcome, Refusal> {
        self.store_all().await?;
        if !self.end && !partial {
            let why =
                "the export is cut: its last line is missing. What came before is stored; repeat with all of it, or with partial=true";
            self.outcome.refuse(self.last_line + 1, "", why);
        }
        if self.outcome.refused == 0 {
            self.store.finish_import(&header.id).await.map_err(StoreError::refusal_of_all)?;
            self.outcome.complete = true;
        }
        Ok(self.outcome)
    }
}
