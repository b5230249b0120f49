//! The document as a page for people, and a page for each problem. Written once, without scripts: what it shows is what
//! `/openapi.json` says.

use std::fmt::Write as _;

use serde_json::Value;

use super::html::{escape, page, prose};
use crate::{domain::Explained, http::problem};

/// The deepest nesting of a schema that is shown.
const DEPTH_MAX: usize = 12;

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn pretty(value: &Value) -> String {
    match value {
        Value::String(lines) => lines.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    }
}

/// The page of the whole document. Writing to a String cannot fail.
pub(super) fn docs(document: &Value, explained: &[Explained]) -> String {
    let info = &document["info"];
    let mut body = format!(
        "<header><h1>{} {}</h1>\n<p>{}</p>\n<p><a href=\"/openapi.json\">openapi.json</a></p>\n</header>\n",
        escape(text(&info["title"])),
        escape(text(&info["version"])),
        prose(text(&info["description"]))
    );
    let (mut contents, mut sections) = (String::new(), String::new());
    for tag in document["tags"].as_array().into_iter().flatten().map(|tag| text(&tag["name"])) {
        let _ = write!(contents, "<h2>{}</h2>\n<ul>\n", escape(tag));
        let _ = writeln!(sections, "<h2>{}</h2>", escape(tag));
        for (path, item) in members(&document["paths"]) {
            for (method, operation) in members(item).filter(|(_, operation)| operation["tags"][0] == tag) {
                let (id, method) = (escape(text(&operation["operationId"])), method.to_uppercase());
                let path = escape(path);
                let _ = writeln!(contents, "<li><a href=\"#{id}\"><b>{method}</b> {path}</a></li>");
                let _ = writeln!(sections, "<section id=\"{id}\">\n<h3><b>{method}</b> {path}</h3>");
                self::operation(&mut sections, operation);
                sections.push_str("</section>\n");
            }
        }
        contents.push_str("</ul>\n");
    }
    let _ = write!(
        body,
        "<nav>\n{contents}<h2>Reference</h2>\n<ul>\n<li><a href=\"#access\">Access</a></li>\n"
    );
    body.push_str("<li><a href=\"#schemas\">Schemas</a></li>\n<li><a href=\"#problems\">Problems</a></li>\n</ul>\n</nav>\n<main>\n");
    body.push_str(&sections);
    body.push_str("<h2 id=\"access\">Access</h2>\n<dl>\n");
    for (name, scheme) in members(&document["components"]["securitySchemes"]) {
        let _ = writeln!(
            body,
            "<dt><code>{}</code> HTTP {}</dt><dd>{}</dd>",
            escape(name),
            escape(text(&scheme["scheme"])),
            prose(text(&scheme["description"]))
        );
    }
    body.push_str("</dl>\n<h2 id=\"schemas\">Schemas</h2>\n");
    for (name, shown) in members(&document["components"]["schemas"]) {
        let name = escape(name);
        let _ = writeln!(body, "<section id=\"schema-{name}\">\n<h3>{name}</h3>");
        schema(&mut body, shown, 0);
        body.push_str("</section>\n");
    }
    body.push_str("<h2 id=\"problems\">Problems</h2>\n<table>\n");
    for one in explained {
        let face = one.refusal.face();
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td><a href=\"/problems/{slug}\">{slug}</a></td><td>{}</td></tr>",
            face.status,
            prose(face.title),
            slug = escape(face.slug)
        );
    }
    body.push_str("</table>\n</main>\n");
    page("unpoll: the HTTP interface", &body)
}

/// The page of one problem.
pub(super) fn problem_page(one: &Explained) -> String {
    let face = one.refusal.face();
    let example = pretty(&Value::Object(problem(&one.refusal)));
    let body = format!(
        "<main>\n<h1>{title}</h1>\n<p><code>{status}</code> <code>{slug}</code></p>\n<p>{meaning}</p>\n<p><b>What to do:</b> {remedy}</p>\n\
         <pre>{example}</pre>\n<p><a href=\"/docs#problems\">All problems</a></p>\n</main>\n",
        title = prose(face.title),
        status = face.status,
        slug = escape(face.slug),
        meaning = prose(one.meaning),
        remedy = prose(one.remedy),
        example = escape(&example),
    );
    page(&format!("unpoll: {}", face.slug), &body)
}

fn operation(page: &mut String, operation: &Value) {
    let _ = writeln!(page, "<p class=\"summary\">{}</p>", prose(text(&operation["summary"])));
    let _ = writeln!(page, "<p>{}</p>", prose(text(&operation["description"])));
    let _ = writeln!(page, "<p>{}</p>", access(&operation["security"]));
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        page.push_str("<table>\n");
        for one in parameters {
            let _ = writeln!(
                page,
                "<tr><td><code>{}</code></td><td>{}</td><td>{}: {}</td></tr>",
                escape(text(&one["name"])),
                escape(text(&one["in"])),
                kind(&one["schema"]),
                prose(text(&one["description"]))
            );
        }
        page.push_str("</table>\n");
    }
    for (media_type, content) in members(&operation["requestBody"]["content"]) {
        let _ = writeln!(page, "<h4>Body: <code>{}</code></h4>", escape(media_type));
        self::content(page, content);
    }
    for (status, answer) in members(&operation["responses"]) {
        let refusal = &answer["content"]["application/problem+json"];
        if refusal.is_object() {
            let slugs = members(&refusal["examples"]).map(|(slug, _)| {
                let slug = escape(slug);
                format!("<a href=\"/problems/{slug}\">{slug}</a>")
            });
            let slugs: Vec<String> = slugs.collect();
            let _ = writeln!(page, "<p class=\"problem\"><b>{}</b> {}</p>", escape(status), slugs.join(", "));
            continue;
        }
        let _ = writeln!(page, "<h4>{} {}</h4>", escape(status), prose(text(&answer["description"])));
        let headers: Vec<String> = members(&answer["headers"])
            .map(|(name, header)| format!("<li><code>{}</code> {}</li>", escape(name), kind(&header["schema"])))
            .collect();
        if !headers.is_empty() {
            let _ = writeln!(page, "<ul>{}</ul>", headers.concat());
        }
        for (media_type, content) in members(&answer["content"]) {
            let _ = writeln!(page, "<p><code>{}</code></p>", escape(media_type));
            self::content(page, content);
        }
    }
}

fn access(security: &Value) -> String {
    let alternatives = security.as_array().map(Vec::as_slice).unwrap_or_default();
    let ways: Vec<String> = alternatives
        .iter()
        .flat_map(members)
        .map(|(scheme, scopes)| match text(&scopes[0]) {
            "" => format!("<a href=\"#access\">{}</a>", escape(scheme)),
            scope => format!("<a href=\"#access\">{}</a> of scope <code>{}</code>", escape(scheme), escape(scope)),
        })
        .collect();
    match ways.as_slice() {
        [] => "For everybody.".to_owned(),
        ways => format!("Needs: {}.", ways.join(" or ")),
    }
}

fn content(page: &mut String, content: &Value) {
    schema(page, &content["schema"], 0);
    for (name, example) in members(&content["examples"]) {
        let _ = writeln!(
            page,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(name),
            escape(&pretty(&example["value"]))
        );
    }
}

/// A schema in a word or two.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        let name = escape(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("<code>{}</code>", escape(&pretty(word)))).collect();
        return words.join(" ");
    }
    if let Some(fits) = schema["anyOf"].as_array() {
        return fits.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let name = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        Value::String(name) => name.clone(),
        _ => "anything".to_owned(),
    };
    if let Some(items) = schema.get("items") {
        return format!("{} of {}", escape(&name), kind(items));
    }
    let between = match (&schema["minimum"], &schema["maximum"]) {
        (Value::Number(least), Value::Number(most)) => format!(" {least} to {most}"),
        _ => String::new(),
    };
    format!("{}{between}", escape(&name))
}

/// A schema with its members.
fn schema(page: &mut String, shown: &Value, depth: usize) {
    let _ = writeln!(page, "<div class=\"schema\">{} {}", kind(shown), prose(text(&shown["description"])));
    if depth < DEPTH_MAX {
        let required = shown["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        if shown["properties"].is_object() {
            page.push_str("<dl>\n");
            for (name, member) in members(&shown["properties"]) {
                let optional = if required.iter().any(|one| one == name) {
                    ""
                } else {
                    " <i>optional</i>"
                };
                let _ = write!(page, "<dt><code>{}</code>{optional}</dt><dd>", escape(name));
                schema(page, member, depth + 1);
                page.push_str("</dd>\n");
            }
            page.push_str("</dl>\n");
        }
        let inner = [shown.get("items"), shown.get("additionalProperties")];
        let inner = inner.into_iter().flatten();
        let alternatives = shown["anyOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        for one in inner.chain(alternatives).filter(|one| one["properties"].is_object()) {
            schema(page, one, depth + 1);
        }
    }
    page.push_str("</div>\n");
}
