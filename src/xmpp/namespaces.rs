//! What prefixes mean at the place where the parser is (Namespaces in XML 1.0).

use std::sync::Arc;

use super::ns;

/// A declaration that holds while the element at `depth` is open.
#[derive(Debug, Clone)]
struct Declared {
    depth: u16,
    prefix: Box<str>,
    uri: Arc<str>,
}

/// The declarations that hold, innermost last.
#[derive(Debug, Clone, Default)]
pub(super) struct Namespaces(Vec<Declared>);

impl Namespaces {
    /// What nearly every client declares in its stream header.
    pub(super) fn usual() -> Self {
        let declared = |prefix: &str, uri: &str| Declared {
            depth: 1,
            prefix: prefix.into(),
            uri: uri.into(),
        };
        Self(vec![declared("", ns::CLIENT), declared("stream", ns::STREAM)])
    }

    /// Whether these are exactly the usual ones.
    pub(super) fn are_usual(&self) -> bool {
        let has = |prefix: &str, uri: &str| self.0.iter().any(|one| &*one.prefix == prefix && &*one.uri == uri);
        self.0.len() == 2 && has("", ns::CLIENT) && has("stream", ns::STREAM)
    }

    /// Notes a declaration of the element at `depth`. The empty prefix is the default namespace.
    pub(super) fn declare(&mut self, depth: u16, prefix: &str, uri: &str) {
        self.0.push(Declared {
            depth,
            prefix: prefix.into(),
            uri: uri.into(),
        });
    }

    /// Forgets what the element at `depth` declared.
    pub(super) fn close(&mut self, depth: u16) {
        while self.0.last().is_some_and(|last| last.depth >= depth) {
            self.0.pop();
        }
    }

    /// The default namespace: `None` when there is none.
    pub(super) fn unprefixed(&self) -> Option<Arc<str>> {
        self.find("").filter(|uri| !uri.is_empty())
    }

    /// What `prefix` means; `None` when nobody declared it.
    pub(super) fn of(&self, prefix: &str) -> Option<Arc<str>> {
        if prefix == "xml" { Some(ns::XML.into()) } else { self.find(prefix) }
    }

    fn find(&self, prefix: &str) -> Option<Arc<str>> {
        self.0.iter().rev().find(|one| &*one.prefix == prefix).map(|one| one.uri.clone())
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.0.capacity() * size_of::<Declared>() + self.0.iter().map(|one| one.prefix.len() + one.uri.len() + 16).sum::<usize>()
    }
}
