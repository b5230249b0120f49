//! Query parameters, and lists in pages: `{items, next}`, `limit`, opaque `cursor`.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;

use crate::domain::{Filter, FilterBounds, Limits, Refusal};

/// The query parameters of a request. A handler takes those it knows and calls [`Parameters::finish`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        if parts.uri.query().is_none_or(str::is_empty) {
            return Ok(Self::default());
        }
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(invalid("?", rejection.body_text())),
        }
    }
}

/// A refusal of one parameter.
fn invalid(name: &str, why: impl Into<String>) -> Refusal {
    Refusal::InvalidParameter {
        name: name.to_owned(),
        why: why.into(),
    }
}

impl Parameters {
    /// Takes a parameter out.
    ///
    /// # Errors
    /// `InvalidParameter` when it is given twice.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let found = self.0.iter().position(|(known, _)| known == name).map(|at| self.0.remove(at).1);
        if found.is_some() && self.0.iter().any(|(known, _)| known == name) {
            return Err(invalid(name, "it is given twice"));
        }
        Ok(found)
    }

    /// Takes a parameter that is `true` or `false`; absent is false.
    ///
    /// # Errors
    /// `InvalidParameter` for any other word.
    pub fn take_flag(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(invalid(name, format!("{other:?} is neither true nor false"))),
        }
    }

    /// Takes `limit` and `cursor`.
    ///
    /// # Errors
    /// `InvalidParameter` for a limit outside 1 to `page_max`, or a cursor that this service did not give.
    pub fn take_page(&mut self, limits: &Limits) -> Result<PageRequest, Refusal> {
        let limit = match self.take("limit")? {
            None => limits.page_default,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=limits.page_max).contains(&limit) => limit,
                _ => return Err(invalid("limit", format!("{text:?} is not a number from 1 to {}", limits.page_max))),
            },
        };
        let after = match self.take("cursor")? {
            None => None,
            Some(cursor) => Some(PageRequest::open(&cursor)?),
        };
        Ok(PageRequest { limit, after })
    }

    /// Takes `filter`. `state`: whether it may ask for the state of presence.
    ///
    /// # Errors
    /// `InvalidFilter`, with the offset in the text that was sent, decoded.
    pub fn take_filter(&mut self, limits: &Limits, state: bool) -> Result<Option<Filter>, Refusal> {
        let Some(text) = self.take("filter")? else { return Ok(None) };
        let bounds = FilterBounds {
            max_bytes: limits.filter_max_bytes,
            max_terms: limits.filter_max_terms,
            state,
        };
        Filter::parse(&text, &bounds).map(Some).map_err(Refusal::InvalidFilter)
    }

    /// Nothing, when every parameter was taken.
    ///
    /// # Errors
    /// `InvalidParameter` for the first that was not.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(invalid(name, "it is not known here; remove it or correct its name")),
        }
    }
}

/// Which page of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The most items on it.
    pub limit: usize,
    /// The last item of the page before, as the list names it.
    pub after: Option<String>,
}

impl PageRequest {
    /// What the cursor holds, as the list's own kind of name.
    ///
    /// # Errors
    /// `InvalidParameter` when this service did not give that cursor.
    pub fn after<T: std::str::FromStr>(&self) -> Result<Option<T>, Refusal> {
        match &self.after {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| Self::unknown_cursor()),
        }
    }

    fn open(cursor: &str) -> Result<String, Refusal> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| Self::unknown_cursor())?;
        String::from_utf8(bytes).map_err(|_| Self::unknown_cursor())
    }

    fn unknown_cursor() -> Refusal {
        invalid("cursor", "it is not one that this list gave; leave it out to start anew")
    }

    /// The page made of `items`, of which the caller has asked for one more than the limit, so that it is known whether more
    /// follow. `name` is what the cursor holds: the name of the last item shown.
    pub fn page<T>(&self, mut items: Vec<T>, name: impl Fn(&T) -> String) -> Paged<T> {
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().filter(|_| more).map(|last| Self::cursor(&name(last)));
        Paged { items, next }
    }

    /// The cursor of the page behind that name.
    pub fn cursor(name: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(name)
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paged<T> {
    /// The items.
    pub items: Vec<T>,
    /// The cursor of the next page; `null` at the end.
    pub next: Option<String>,
}

impl<T> Paged<T> {
    /// The same page with every item shown in another way.
    pub fn map<U>(self, show: impl FnMut(T) -> U) -> Paged<U> {
        Paged {
            items: self.items.into_iter().map(show).collect(),
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &[(&str, &str)]) -> Parameters {
        Parameters(text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_list_is_read_page_by_page() {
        let limits = Limits::default();
        let all: Vec<u32> = (0..5).collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let mut given = vec![("limit", "2")];
            given.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let request = parameters(&given).take_page(&limits).unwrap();
            let after: Option<u32> = request.after().unwrap();
            let from = after.map_or(0, |after| after as usize + 1);
            let page = request.page(all[from..].iter().copied().take(3).collect(), u32::to_string);
            seen.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_bad_parameter_is_named() {
        let limits = Limits::default();
        let check = |given: &[(&str, &str)], named: &str| {
            let mut parameters = parameters(given);
            let result = parameters
                .take_page(&limits)
                .and_then(|page| page.after::<u32>())
                .and_then(|_| parameters.finish());
            let refused = matches!(&result, Err(Refusal::InvalidParameter { name, .. }) if name == named);
            assert!(refused, "{given:?}: {result:?}");
        };
        check(&[("limit", "0")], "limit");
        check(&[("limit", "1001")], "limit");
        check(&[("limit", "-1")], "limit");
        check(&[("limit", "x")], "limit");
        check(&[("limit", "1"), ("limit", "2")], "limit");
        check(&[("cursor", "%%%")], "cursor");
        check(&[("cursor", "bm90IGEgbnVtYmVy")], "cursor");
        check(&[("colour", "red")], "colour");
    }
}
