//! Moving everything: reads go to the rows, off the event loop; changes are steps of the writer.

use std::sync::Arc;

use async_trait::async_trait;

use super::{EmbeddedStore, op::Op};
use crate::store::{
    StoreError,
    transfer::{Header, Part, Piece, RowPage, Taken, Transfer, exported_webhooks, import_key, import_tenant, import_webhook},
};

#[async_trait]
impl Transfer for EmbeddedStore {
    async fn header(&self) -> Result<Header, StoreError> {
        self.shared.read(|engine| self.shared.exported_header(engine))
    }

    async fn rows(&self, part: Part, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        if part == Part::Webhooks {
            return exported_webhooks(self, after).await;
        }
        let shared = Arc::clone(&self.shared);
        let read = move || shared.read(|engine| shared.exported_rows(engine, part, after));
        let page = tokio::task::spawn_blocking(read).await;
        page.unwrap_or_else(|_| Err(StoreError::Unavailable("the reading of a page was cut short".into())))
    }

    async fn begin_import(&self, header: &Header) -> Result<(), StoreError> {
        let header = Box::new(header.clone());
        self.ask(|answer| Op::BeginImport(header, answer)).await?
    }

    async fn import(&self, piece: Piece) -> Result<Taken, StoreError> {
        match &piece {
            Piece::Tenant(tenant) => import_tenant(self, tenant).await?,
            Piece::Key(key) => return import_key(self, key).await,
            Piece::Webhook(webhook) => return import_webhook(self, webhook).await,
            _ => {}
        }
        self.ask(|answer| Op::Import(Box::new(piece), answer)).await?
    }

    async fn finish_import(&self, export: &str) -> Result<(), StoreError> {
        let export = export.to_owned();
        self.ask(|answer| Op::FinishImport(export, answer)).await?
    }
}
