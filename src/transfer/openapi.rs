//! What export and import say of themselves.

use crate::{
    domain::Scope,
    http::openapi::{Access, Answer, Operation, READS_LINES, Schema},
};

/// Both.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new("get", "/v1/export", "export", "transfer", Access::Key(vec![Scope::Operator]))
            .summary("Everything in the store, as lines of JSON.")
            .text("It has secrets in it. An answer without the line `end` is cut short.")
            .answer(Answer::of(200, "The lines.", "application/x-ndjson", Schema::text()))
            .refuses(["unavailable"]),
        Operation::new("post", "/v1/import", "import", "transfer", Access::Key(vec![Scope::Operator]))
            .summary("Take an export in.")
            .text("A line that is refused spoils no other, and the whole can be repeated from its start.")
            .query("partial", Schema::flag(), "Takes an export in that is not whole.")
            .query("begin_only", Schema::flag(), "Looks at the first line alone.")
            .body(
                "application/x-ndjson",
                Schema::anything().about("Lines of JSON, as `unpoll export` writes them."),
            )
            .answer(Answer::json(200, "What became of the lines.", outcome()))
            .refuses(READS_LINES)
            .refuses(["conflict", "no-space", "unavailable"]),
    ]
}

fn outcome() -> Schema {
    let names = ["tenants", "keys", "receipts", "minutes", "devices", "deliveries"];
    let counts = || Schema::object(names.map(|name| (name, Schema::count()))).named("Counts");
    let problem = Schema::object([("line", Schema::count()), ("field?", Schema::text()), ("detail", Schema::text())]);
    Schema::object([
        ("stored", counts()),
        ("present", counts().about("Rows that were there.")),
        ("refused", Schema::count().about("Lines.")),
        ("problems", Schema::list(problem).about("The first hundred of them.")),
        ("complete", Schema::flag().about("Everything was taken in.")),
    ])
    .named("Import")
}
