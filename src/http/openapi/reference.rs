//! The page of all problems in the documentation.

use std::fmt::Write as _;

use crate::domain::Explained;

/// `docs/reference/errors.md`: every problem with its status, what it means and what to do.
pub fn reference(explained: &[Explained]) -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Every refusal of the HTTP interface is a problem document (RFC 9457, `application/problem+json`): `type` is `/problems/` and the slug\n\
         below, and leads to a page that says what is said here; `title` is its title, `status` repeats the status, `detail` names the field, the\n\
         offset or the limit. `429` and `503` carry `Retry-After` in seconds. After a 4xx nothing is stored; after a `503` the event may be, so\n\
         retry with the same key.\n\n\
         The slug is also the label in `unpoll_` metrics. Generated from the code: a test keeps this page fresh.\n",
    );
    for one in explained {
        let face = one.refusal.face();
        let meaning = if one.meaning.is_empty() {
            String::new()
        } else {
            format!(" {}", one.meaning)
        };
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n`{}` {}.{meaning}\n\n*{}*\n",
            face.slug, face.status, face.title, one.remedy
        );
    }
    page
}
